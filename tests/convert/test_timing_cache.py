import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clipfleet.convert.tensorrt.timing_cache import TimingCache, cache_name
from tests.convert.tensorrt_interfaces import DAMAGED, LATEST_WEAK, FakeTensorRT

OWN = "own.timing.cache"


@pytest.fixture
def trt() -> FakeTensorRT:
    return FakeTensorRT(LATEST_WEAK)


def built(path: Path, trt: FakeTensorRT, *measured: bytes) -> tuple[TimingCache, list[str]]:
    """A cache attached to a build that measured something."""
    messages: list[str] = []
    config: Any = trt.Config(trt)
    cache = TimingCache(path, config, messages.append, own_name=OWN)
    config._cache._lines.update(measured)
    return cache, messages


def test_the_name_says_version_and_gpu() -> None:
    name = cache_name("8.6.0", "NVIDIA H100 80GB HBM3")
    assert name == "tensorrt-8.6.0-nvidia-h100-80gb-hbm3.timing.cache"


def test_a_build_goes_on_with_what_the_file_holds(tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / "models" / "c"
    first, messages = built(path, trt, b"one")
    first.save()
    assert path.read_bytes() == b"one"
    second, _ = built(path, trt, b"two")
    second.save()
    assert path.read_bytes() == b"one\ntwo"
    assert messages == []
    assert sorted(os.listdir(path.parent)) == [".c.lock", "c"]


def test_what_another_builder_wrote_meanwhile_is_kept(tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / "c"
    slow, _ = built(path, trt, b"slow")
    quick, _ = built(path, trt, b"quick")
    quick.save()
    slow.save()
    assert path.read_bytes() == b"quick\nslow"


def test_a_damaged_cache_is_a_notice_and_begins_anew(tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / OWN
    path.write_bytes(DAMAGED)
    cache, messages = built(path, trt, b"new")
    wrong = f"timing cache {path} is damaged, unreadable, or of another version or GPU"
    assert messages == [f"{wrong}: it is begun anew"]
    cache.save()
    assert path.read_bytes() == b"new"


def test_a_file_of_another_name_that_does_not_serve_stays_as_it_is(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    path = tmp_path / "c"
    path.write_bytes(DAMAGED)
    for measured in (b"new", b"newer"):
        cache, messages = built(path, trt, measured)
        assert len(messages) == 1
        assert messages[0].endswith(f"it stays as it is, and {OWN} beside it is used")
        cache.save()
    assert path.read_bytes() == DAMAGED
    assert cache.path == tmp_path / OWN
    assert cache.path.read_bytes() == b"new\nnewer"


def test_a_file_that_cannot_be_read_is_a_notice(
    tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"old")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    _, messages = built(path, trt)
    assert "c is damaged, unreadable, or of another" in messages[0]


def test_a_cache_of_another_gpu_is_a_notice(
    tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / OWN
    path.write_bytes(b"foreign")
    attach = trt.Config.set_timing_cache

    def refuse(config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        attach(config, cache, ignore_mismatch)
        return bool(cache._lines != {b"foreign"})

    monkeypatch.setattr(trt.Config, "set_timing_cache", refuse)
    cache, messages = built(path, trt, b"new")
    assert len(messages) == 1
    cache.save()
    assert path.read_bytes().endswith(b"new")


def test_saving_waits_for_the_lock(tmp_path: Path, trt: FakeTensorRT) -> None:
    path = tmp_path / "c"
    cache, _ = built(path, trt, b"mine")
    with (tmp_path / ".c.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saving = threading.Thread(target=cache.save)
        saving.start()
        saving.join(0.2)
        assert saving.is_alive()
        assert not path.exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        saving.join(10)
    assert path.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, trt: FakeTensorRT) -> None:
    (tmp_path / "file").write_text("")
    cache, messages = built(tmp_path / "file" / "c", trt)
    cache.save()
    assert len(messages) == 1
    assert "cannot be written" in messages[0]


@pytest.mark.parametrize("how", ["an empty cache", "TypeError"])
def test_however_tensorrt_says_that_it_does_not_take_a_file_it_is_a_notice(
    tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    create = trt.Config.create_timing_cache

    def refuse(config: Any, content: bytes) -> Any:
        if content != DAMAGED:
            return create(config, content)
        if how == "TypeError":
            raise TypeError("a null pointer")
        return create(config, b"")

    monkeypatch.setattr(trt.Config, "create_timing_cache", refuse)
    path = tmp_path / "c"
    path.write_bytes(DAMAGED)
    cache, messages = built(path, trt, b"new")
    assert "c is damaged, unreadable, or of another" in messages[0]
    cache.save()
    assert path.read_bytes() == DAMAGED
    assert (tmp_path / OWN).read_bytes() == b"new"

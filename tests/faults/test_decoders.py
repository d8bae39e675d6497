"""The decoders, and pictures that do them harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from clipfleet.error_codes import DECODE_FAILED, DECODE_TIMEOUT, DECODER_CRASHED, TOO_LARGE
from clipfleet.errors import StorageError
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.workers.images import decoder as decoder_module
from clipfleet.workers.images.decode import ImageLimits, decode
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.preprocess import preprocess
from clipfleet.workers.images.region import Layout
from tests.faults.pictures import (
    held_processes,
    picture_bytes,
    poisoned_environment,
    write_pictures,
)
from tests.integration.support import wait_until

ATTEMPTS = 3
TIMEOUT_S = 2.0
INPUTS = Layout(resolution=16, slots=4, ring_bytes=0)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in poisoned_environment(tmp_path).items():
        monkeypatch.setenv(name, value)


def make_decoders(count: int = 1, layout: Layout = INPUTS, max_pixels: int = 1000) -> Decoders:
    limits = ImageLimits(max_pixels=max_pixels)
    return Decoders(
        limits, layout, count=count, attempts=ATTEMPTS, timeout_s=TIMEOUT_S, pause_s=0.01
    )


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with make_decoders() as opened:
        yield opened


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were started."""
    pids: list[int] = []
    start = subprocess.Popen.__init__

    def counted(self: subprocess.Popen[bytes], *args: object, **keywords: object) -> None:
        start(self, *args, **keywords)  # type: ignore[call-overload]
        pids.append(self.pid)

    monkeypatch.setattr(subprocess.Popen, "__init__", counted)
    return pids


def outcomes(decoders: Decoders, items: Sequence[Item]) -> list[np.ndarray | Failure]:
    """Return a copy of each picture's pixels, or its failure."""
    found: list[np.ndarray | Failure] = []
    for outcome in decoders.run(items):
        if isinstance(outcome, Failure):
            found.append(outcome)
        else:
            assert outcome.size == (30, 20)
            found.append(outcome.pixels.copy())
            outcome.free()
    return found


def assert_pixels(found: object, seed: int) -> None:
    image, _ = decode(picture_bytes(seed), "a", 1000)
    np.testing.assert_array_equal(found, preprocess(image, 16))


@pytest.mark.parametrize(
    ("poison", "code", "message"),
    [
        ("ABORT", DECODER_CRASHED, "ended its decoder 3 times; the last time it died of SIGABRT"),
        ("SIGKILL", DECODER_CRASHED, "ended its decoder 3 times; the last time it died of SIGKILL"),
        ("HANG", DECODE_TIMEOUT, "held its decoder 3 times; the last time it took more than 2 s"),
        ("MEMORY", DECODE_FAILED, "takes more memory than there is"),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_that_harms_its_decoder_is_an_error_and_the_others_are_not(
    starts: list[int], tmp_path: Path, poison: str, code: str, message: str, count: int
) -> None:
    items = write_pictures(tmp_path / "in", 12, {3: poison})
    with make_decoders(count) as decoders:
        found = outcomes(decoders, items)
        failure = found[3]
        assert isinstance(failure, Failure)
        assert (failure.item, failure.error) == (items[3], code)
        assert message in failure.message
        for number in {*range(12)} - {3}:
            assert_pixels(found[number], number)
    # Python sees a lack of memory: nothing dies.
    assert len(starts) == count + (0 if poison == "MEMORY" else ATTEMPTS)


def test_a_wrong_image_is_an_error_with_the_reason(tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "in", 2, {})
    Path(items[1].uri or "").write_bytes(picture_bytes(1)[:200])
    with make_decoders(max_pixels=1000) as decoders:
        failure = outcomes(decoders, items)[1]
        assert isinstance(failure, Failure)
        assert "is damaged" in failure.message
    with make_decoders(max_pixels=10) as decoders:
        failure = outcomes(decoders, items[:1])[0]
        assert isinstance(failure, Failure)
        assert failure.error == TOO_LARGE
        assert "has 600 pixels, more than the 10 allowed" in failure.message


def test_decoders_killed_between_two_runs_cost_no_picture(
    starts: list[int], tmp_path: Path
) -> None:
    items = write_pictures(tmp_path / "in", 6, {})
    with make_decoders(2) as decoders:
        outcomes(decoders, items)
        for pid in starts[:2]:
            os.kill(pid, signal.SIGKILL)
        for number, found in enumerate(outcomes(decoders, items)):
            assert_pixels(found, number)


def test_a_decoder_that_does_not_start_is_no_pictures_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "_MODULE", "clipfleet.nowhere")
    items = write_pictures(tmp_path / "in", 1, {})
    with (
        make_decoders() as decoders,
        pytest.raises(StorageError, match="starts: one ended with exit code 1"),
    ):
        outcomes(decoders, items)


def test_a_run_that_is_left_waits_for_no_picture(tmp_path: Path) -> None:
    items = write_pictures(tmp_path / "in", 3, {1: "HANG"})
    with Decoders(ImageLimits(), INPUTS, count=1, attempts=ATTEMPTS, timeout_s=3600) as endless:
        run = endless.run(items)
        next(run)
        wait_until(lambda: held_processes(tmp_path), what="a held decoder")
        run.close()
        assert_pixels(outcomes(endless, items[:1])[0], 0)


def test_after_a_run_that_was_left_the_next_one_has_its_own_pictures(
    decoders: Decoders, tmp_path: Path
) -> None:
    items = write_pictures(tmp_path / "in", 12, {})
    left = decoders.run(items[6:])
    next(left)
    left.close()
    for number, found in enumerate(outcomes(decoders, items[:6])):
        assert_pixels(found, number)


_HOLDER = """
import sys
from clipfleet.items import Item
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.region import Layout
layout = Layout(resolution=8, slots=4, ring_bytes=0)
decoders = Decoders(ImageLimits(), layout, count=1, attempts=1, timeout_s=3600)
list(decoders.run([Item(id="a", uri=sys.argv[1])]))
"""


def test_a_decoder_that_hangs_ends_with_whoever_started_it(tmp_path: Path) -> None:
    (item,) = write_pictures(tmp_path / "in", 1, {0: "HANG"})
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(item.uri)])
    wait_until(lambda: held_processes(tmp_path), what="a held decoder")
    (decoder,) = held_processes(tmp_path)
    holder.kill()
    holder.wait()
    wait_until(lambda: not _lives(decoder), what="its end")


def test_a_decoder_has_no_settings_and_no_credentials(
    starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPFLEET_REDIS_URL", "redis://:secret@host/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with make_decoders():
        environ = Path(f"/proc/{starts[0]}/environ")
        wait_until(environ.read_bytes, what="the program's start")  # empty until then
        environment = environ.read_bytes()
    assert b"PATH=" in environment
    assert b"secret" not in environment


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False

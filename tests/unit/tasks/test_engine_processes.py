"""How many processes of a worker hold its engine, and what each one gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfleet.gpus import Gpu
from clipfleet.settings import cores, load_settings
from clipfleet.tasks.worker import engine_processes
from clipfleet.tasks.worker.engine_processes import with_engine_processes
from clipfleet.workers.engines.fake import write_fake_engine


def gpu(free_memory: str) -> Gpu:
    return Gpu(
        uuid="GPU-1",
        name="NVIDIA H200",
        compute_capability="9.0",
        memory="143771 MiB",
        free_memory=free_memory,
        driver="580",
    )


@pytest.fixture
def tensorrt(tmp_path: Path) -> str:
    """A model card of a TensorRT engine."""
    path = write_fake_engine(tmp_path, "txt")
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "runtime": "tensorrt"}))
    return str(path)


@pytest.mark.parametrize(
    ("gpus", "count"),
    [
        ([gpu("143000 MiB")], 2),
        ([gpu("3000 MiB")], 1),  # a second engine would find no room
        ([gpu("143000 MiB"), gpu("3000 MiB")], 1),  # the worker may use either
        ([gpu("[N/A]")], 1),
        ([], 1),
    ],
)
def test_a_tensorrt_engine_that_fits_twice_has_two_processes(
    tensorrt: str, monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], count: int
) -> None:
    monkeypatch.setattr(engine_processes, "list_gpus", lambda: gpus)
    settings = with_engine_processes(load_settings(model=tensorrt))
    assert settings.engine_processes == count


def test_another_engine_has_one_process_with_all_cores(tmp_path: Path) -> None:
    model = str(write_fake_engine(tmp_path, "txt"))
    settings = with_engine_processes(load_settings(model=model))
    assert settings.engine_processes == 1
    assert (settings.decoders, settings.engine_threads) == (cores(), cores())


def test_processes_divide_what_the_worker_may_use(tensorrt: str) -> None:
    settings = with_engine_processes(
        load_settings(
            model=tensorrt, engine_processes=4, decoders=9, decode_memory_mib=512, url_threads=2
        )
    )
    assert settings.engine_processes == 4
    assert (settings.decoders, settings.decode_memory_mib, settings.url_threads) == (2, 128, 1)

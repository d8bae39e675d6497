"""TensorRT end to end on a GPU: embed and worker, from pictures and captions to verified datasets.

    TEST_ENGINES=models python -m pytest -s -m gpu tests/gpu/test_tensorrt_job.py

TEST_ENGINES is a folder with demo.img.fp16.trt and demo.txt.fp16.trt, and their cards, that were
built on this machine's GPU; without it, or where one does not fit, they are built here.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt")

from clipfleet.architectures import TOWERS, Tower
from clipfleet.model_card import card_path, load_card, write_card
from clipfleet.settings import load_settings
from clipfleet.tasks.local.engine_build import engine_of_this_machine
from tests.gpu.support import ROOT, clipfleet, draw, vectors
from tests.integration.support import WorkerProcess, wait_until

pytestmark = pytest.mark.gpu

MODEL = ROOT / "examples" / "demo" / "model"
PICTURES = 2_000
LEAST_COSINE = 0.9999
BUILD_S = 420.0
RUN_S = 240.0
BUILDS = "clipfleet: building demo.txt.fp16.trt for "  # a line of the worker that builds


def copy_model(tower: Tower, folder: Path) -> Path:
    """Copy the tower's ONNX files and cards, without engines, and return the float16 ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in MODEL.glob(f"demo.{tower}.*.onnx*"):
        shutil.copy(path, folder)
    return folder / f"demo.{tower}.fp16.onnx"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[Tower, Path]:
    """The demo's engines for this machine: those of TEST_ENGINES that fit, else built now."""
    folder = tmp_path_factory.mktemp("engines")
    given = os.environ.get("TEST_ENGINES")
    cards: dict[Tower, Path] = {}
    for tower in TOWERS:
        onnx = copy_model(tower, folder)
        for path in Path(given).glob(f"demo.{tower}.fp16.trt*") if given else ():
            shutil.copy(path, folder)
        settings = load_settings(engine_cache=str(folder / "cache"))
        started_s = time.monotonic()
        cards[tower] = engine_of_this_machine(onnx, settings)
        print(f"\n{tower}: {cards[tower]} after {time.monotonic() - started_s:.0f} s")
    return cards


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's pictures and their captions."""
    return draw(tmp_path_factory.mktemp("corpus"), PICTURES)


@pytest.mark.parametrize("tower", TOWERS)
def test_a_job_on_tensorrt_is_whole_and_its_vectors_are_the_cpus(
    tower: Tower, engines: dict[Tower, Path], corpus: Path, tmp_path: Path
) -> None:
    source = corpus / ("images" if tower == "img" else "captions.jsonl")
    items = PICTURES if tower == "img" else 2 * PICTURES
    fast, slow = tmp_path / "tensorrt", tmp_path / "cpu"
    # One by --workers, one by --gpus: both ways onto the GPU.
    how = ("--workers", "2") if tower == "img" else ("--gpus", "all")
    shared = ("--dtype", "float32", "--shard-size", "256")
    on_gpu = ("--model", engines[tower], *how, *shared)
    result = clipfleet("embed", source, fast, *on_gpu, timeout_s=RUN_S)
    print(f"\n{tower}: {result['embedded_items']} items in {result['seconds']} s")
    assert result["ok"]
    assert result["verification"]["vectors"] == items
    assert clipfleet("verify", fast, timeout_s=RUN_S)["ok"]

    onnx = MODEL / f"demo.{tower}.fp32.onnx"
    on_cpu = ("--model", onnx, "--provider", "cpu", *shared)
    clipfleet("embed", source, slow, *on_cpu, timeout_s=RUN_S)
    (ids, got), (expected_ids, expected) = vectors(fast), vectors(slow)
    assert ids == expected_ids
    cosines = np.einsum("nd,nd->n", got, expected)
    print(f"{tower}: worst cosine {cosines.min():.8f}, mean {cosines.mean():.8f}")
    assert cosines.min() >= LEAST_COSINE


@pytest.mark.parametrize("tower", TOWERS)
def test_a_measurement_has_the_stages_of_the_gpu(
    tower: Tower, engines: dict[Tower, Path], corpus: Path
) -> None:
    source = corpus / ("images" if tower == "img" else "captions.jsonl")
    told = clipfleet("bench", source, "--model", engines[tower], "--seconds", "1", timeout_s=RUN_S)
    rates = {stage["name"]: stage["items_s"] for stage in told["stages"]}
    print(f"\n{tower}: {rates}; {told['bottleneck']}; {told['advice']}")
    assert min(rates.values()) > 0
    assert told["setup"]["is_on_gpu"]
    assert told["setup"]["takes_pictures"] == (tower == "img")
    assert ({"copy", "resize"} <= rates.keys()) == (tower == "img")


class Workers:
    """Worker processes of one tower's model on a Redis and a folder of their own."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._redis_url = redis_url
        self._folder = folder
        self.started: list[WorkerProcess] = []

    def start(self, model: Path, *options: str) -> WorkerProcess:
        settings = load_settings(
            redis_url=self._redis_url,
            tower=load_card(model)[0].tower,
            model=str(model),
            output=str(self._folder / "output"),
            engine_cache=str(self._folder / "cache"),
        )
        log_path = self._folder / f"worker-{len(self.started)}.log"
        self.started.append(WorkerProcess(settings, log_path, options, launcher=()))
        return self.started[-1]


@pytest.fixture
def workers(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(redis_url, tmp_path)
    yield made
    for worker in made.started:
        worker.kill()


def test_two_workers_that_start_at_once_build_one_engine(workers: Workers, tmp_path: Path) -> None:
    onnx = copy_model("txt", tmp_path / "model")
    pair = [workers.start(onnx, "--build-if-missing") for _ in range(2)]
    for worker in pair:
        worker.wait_for("engine loaded", timeout_s=BUILD_S)
    logs = [worker.log_text() for worker in pair]
    assert sorted(text.count(BUILDS) for text in logs) == [0, 1], logs
    assert len(list((tmp_path / "cache").rglob("*.trt"))) == 1
    assert [worker.stop() for worker in pair] == [0, 0]

    started_s = time.monotonic()
    again = workers.start(onnx, "--build-if-missing")
    again.wait_for("engine loaded", timeout_s=BUILD_S)
    print(f"\nwith its engine built, a worker is ready after {time.monotonic() - started_s:.1f} s")
    assert BUILDS not in again.log_text()
    assert again.stop() == 0


def test_a_worker_serves_no_engine_that_nothing_proves_unless_it_may(
    workers: Workers, engines: dict[Tower, Path], tmp_path: Path
) -> None:
    card, engine = load_card(engines["txt"])
    copied = tmp_path / engine.name
    shutil.copy(engine, copied)
    write_card(replace(card, parity=None), card_path(copied))
    refused = workers.start(copied)
    assert refused.wait(timeout_s=60.0) == 2
    assert "is not proven to compute what its model computes" in refused.log_text().splitlines()[-1]
    allowed = workers.start(copied, "--allow-unverified", "--contexts", "1")
    allowed.wait_for("engine loaded", timeout_s=60.0)
    assert allowed.stop() == 0


def test_a_worker_whose_engine_is_cut_off_says_so_and_is_not_started_again(
    workers: Workers, engines: dict[Tower, Path], tmp_path: Path
) -> None:
    card, engine = load_card(engines["txt"])
    copied = tmp_path / engine.name
    copied.write_bytes(engine.read_bytes()[:-1000])
    write_card(card, card_path(copied))
    refused = workers.start(copied)
    assert refused.wait(timeout_s=60.0) == 2
    assert "EngineDamagedError" in refused.log_text().splitlines()[-1]


def test_a_worker_without_a_gpu_ends_as_one_that_lost_it(
    workers: Workers, engines: dict[Tower, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    worker = workers.start(engines["txt"])
    wait_until(lambda: worker.process.poll() is not None, timeout_s=60, what="it ends")
    assert worker.process.returncode == 1
    assert "GpuLostError" in worker.log_text().splitlines()[-1]

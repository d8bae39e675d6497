"""`--gpus` on a machine with two GPUs or more: ONNX Runtime's CUDA provider, the demo's engines."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from psutil import Process

from clipfleet.gpus import VISIBLE_VARIABLE, list_gpus
from clipfleet.settings import load_settings
from clipfleet.storage.verify.verify import verify_dataset
from tests.gpu.support import ROOT, clipfleet, draw, vectors
from tests.integration.support import WorkerProcess, wait_until

MODEL = ROOT / "examples" / "demo" / "model" / "demo.img.fp32.onnx"
PICTURES = 6_000
SHARD_SIZE = 128
USED_MIB = 100  # at least, by a process with an engine on the GPU
LEAST_COSINE = 0.999999
JOB_S = 180.0

GPUS = list_gpus()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(400),
    pytest.mark.skipif(len(GPUS) < 2, reason="fewer than two GPUs"),
]


@pytest.fixture(autouse=True)
def every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the demo's pictures."""
    return draw(tmp_path_factory.mktemp("scenes"), PICTURES) / "images"


def memory_used() -> dict[str, int]:
    """Return the MiB in use on each GPU, by UUID."""
    command = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {uuid: int(mib) for uuid, mib in (line.split(", ") for line in lines)}


@contextmanager
def gpus_used() -> Iterator[set[str]]:
    """Yield the GPUs, by UUID, on which memory is in use meanwhile that was free before."""
    before, used, over = memory_used(), set[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            now = memory_used()
            used.update(gpu for gpu in now if now[gpu] - before[gpu] >= USED_MIB)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield used
        finally:
            over.set()
        looking.result()  # raises if it could not look


def embed(pictures: Path, out: Path, gpus: str, **environment: str) -> None:
    engine = ("--model", MODEL, "--provider", "cuda", "--gpus", gpus)
    stored = ("--dtype", "float32", "--shard-size", str(SHARD_SIZE))
    result = clipfleet(
        "embed", pictures, out, *engine, *stored, timeout_s=JOB_S, environment=environment
    )
    print(
        f"\n--gpus {gpus} {environment}: {result['embedded_items']} items in {result['seconds']} s"
    )
    assert result["verification"]["vectors"] == PICTURES


def test_all_gpus_embed_what_one_does(pictures: Path, tmp_path: Path) -> None:
    with gpus_used() as used:
        embed(pictures, tmp_path / "all", "all")
    assert used == {gpu.uuid for gpu in GPUS}
    with gpus_used() as used:
        embed(pictures, tmp_path / "one", "0")
    assert used == {GPUS[0].uuid}
    (ids, by_all), (ids_of_one, by_one) = vectors(tmp_path / "all"), vectors(tmp_path / "one")
    assert ids == ids_of_one
    cosines = np.einsum("nd,nd->n", by_all, by_one)
    print(f"worst cosine between all GPUs and one {cosines.min():.8f}")
    assert cosines.min() >= LEAST_COSINE


@pytest.mark.parametrize("names", ["1", "its UUID"])
def test_all_are_those_that_the_process_may_see(pictures: Path, tmp_path: Path, names: str) -> None:
    visible = {VISIBLE_VARIABLE: "1" if names == "1" else GPUS[1].uuid}
    with gpus_used() as used:
        embed(pictures, tmp_path / "out", "all", **visible)
    assert used == {GPUS[1].uuid}


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker on every GPU."""
    settings = load_settings(
        redis_url=redis_url,
        tower="img",
        model=str(MODEL),
        output=str(tmp_path),
        provider="cuda",
    )
    started = WorkerProcess(settings, tmp_path / "fleet.log", ("--gpus", "all"), launcher=())
    yield started
    started.kill()


def test_the_others_do_what_a_killed_worker_had(
    fleet: WorkerProcess, redis_url: str, pictures: Path, tmp_path: Path
) -> None:
    fleet.wait_for("engine loaded", count=len(GPUS))
    workers = {event["gpus"]: event["pid"] for event in fleet.events("worker starts")}
    assert set(workers) == {gpu.uuid for gpu in GPUS}
    killed = workers[GPUS[0].uuid]
    worker_of = {e["pid"]: Process(e["pid"]).ppid() for e in fleet.events("engine loaded")}
    assert set(worker_of.values()) == set(workers.values())

    def busy() -> set[int]:
        """Return the workers that have embedded a shard; those hold their next one, too."""
        return {worker_of[event["pid"]] for event in fleet.events("shard embedded")}

    out = tmp_path / "dataset"
    queued = ("--redis-url", redis_url, "--shard-size", str(SHARD_SIZE))
    clipfleet("submit", pictures, out, "--model", MODEL, *queued, timeout_s=JOB_S)
    wait_until(lambda: busy() == set(workers.values()), timeout_s=JOB_S, what="all are busy")
    os.kill(killed, signal.SIGKILL)
    ended = fleet.wait_for("worker ended")
    assert (ended["gpu"], ended["others"]) == (GPUS[0].uuid, len(GPUS) - 1)
    wait_until(
        lambda: verify_dataset(str(out)).vectors == PICTURES,
        timeout_s=JOB_S,
        what="all are embedded",
    )
    assert verify_dataset(str(out)).problems == []
    assert fleet.stop() == 1  # the killed worker's

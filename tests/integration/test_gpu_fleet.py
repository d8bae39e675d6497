"""`clipfleet worker --gpus`: a worker for each GPU. The GPUs and the engines are stand-ins: what
a worker sees of its GPU is the variable CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import MakeBench
from tests.integration.support import Bench, WorkerProcess, processes_of, wait_until
from tests.nvidia_smi import write_nvidia_smi

pytestmark = pytest.mark.integration

GPUS = 2


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nvidia-smi lists two GPUs."""
    (tmp_path / "bin").mkdir()
    folder = write_nvidia_smi(tmp_path / "bin", GPUS)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def workers_of(fleet: WorkerProcess) -> dict[str, int]:
    """Return the process of each GPU's worker."""
    return {event["gpus"]: event["pid"] for event in fleet.events("worker starts")}


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def test_each_gpu_has_a_worker_that_sees_no_other_and_sigterm_stops_all_gracefully(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(item_s=0.006)
    bench.submit(1_000)
    fleet = bench.start_listed_worker("--gpus", "all", engine_threads=3)
    fleet.wait_for("worker starts", count=GPUS)
    fleet.wait_for("shard embedded", count=3)
    workers = workers_of(fleet)
    assert set(workers) == {"GPU-0000", "GPU-0001"}
    for gpu, pid in workers.items():
        environment = environment_of(pid)
        assert environment["CUDA_VISIBLE_DEVICES"] == gpu
        assert environment["CLIPFLEET_ENGINE_THREADS"] == "3"
        share = max(1, len(os.sched_getaffinity(0)) // GPUS)
        assert environment["CLIPFLEET_DECODERS"] == str(share)

    assert fleet.stop() == 0
    done = len(fleet.events("shard embedded"))
    assert len(fleet.events("worker stopped")) == GPUS
    assert bench.in_redis() == (10 - done, 0)
    assert bench.counts("dataset") == (100 * done, 0)
    assert processes_of(bench.folder) == []


def test_a_worker_that_ends_is_told_of_and_the_others_go_on(make_bench: MakeBench) -> None:
    bench = make_bench(item_s=0.006, visibility_timeout_s=3)  # what the dead worker held comes back
    bench.submit(1_000)
    fleet = bench.start_worker("--gpus", "0,1")
    fleet.wait_for("engine loaded", count=2)
    os.kill(workers_of(fleet)["GPU-0000"], signal.SIGKILL)
    ended = fleet.wait_for("worker ended")
    assert (ended["gpu"], ended["exit_code"], ended["others"]) == ("GPU-0000", -9, 1)
    bench.wait_for_items(1_000)
    bench.assert_whole(vectors=1_000)
    assert fleet.process.poll() is None
    assert fleet.stop() == 1


def test_a_killed_fleet_takes_its_workers_with_it(bench: Bench) -> None:
    fleet = bench.start_listed_worker("--gpus", "all")
    fleet.wait_for("engine loaded", count=2)
    assert len(processes_of(bench.folder)) >= 1 + 2 * GPUS
    fleet.process.send_signal(signal.SIGKILL)
    fleet.wait()
    wait_until(lambda: not processes_of(bench.folder), what="no process left")


def test_a_fleet_whose_workers_all_end_ends_with_their_exit_code(bench: Bench) -> None:
    Path(str(bench.settings.model).removesuffix(".card.json")).write_text("no engine")
    fleet = bench.start_worker("--gpus", "all")
    assert fleet.wait() == 2
    assert len(fleet.events("worker ended")) == GPUS


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(bench: Bench) -> None:
    fleet = bench.start_worker("--gpus", "2")
    assert fleet.wait() == 2
    assert "there is no GPU '2' here" in fleet.log_text()
    assert fleet.events() == []
    unfit = bench.start_worker("--gpus", "all", model="/nowhere/model.onnx")
    assert unfit.wait() == 2
    assert unfit.log_text().count("no model card at /nowhere/model.onnx") == 1

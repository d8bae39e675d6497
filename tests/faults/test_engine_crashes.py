"""Shards, single items and engines that end their worker's process each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipfleet.error_codes import ENGINE_CRASHED
from clipfleet.items import Item
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit.submit import submit
from tests.faults.aborting_engine import (
    POISON,
    aborting_environment,
    break_engine,
    break_loading,
    mend_engine,
)
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import FULL, Rig
from tests.faults.poisoned_rig import SHARD, deaths, errors
from tests.integration.support import WorkerProcess, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

ATTEMPTS = 5 if FULL else 2  # of a shard
POISONED = 30  # the number of the poisoned text, in the second of three shards


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(shard_size=SHARD, window_items=SHARD, shard_attempts=ATTEMPTS)


def start_aborting_worker(rig: Rig, how: Callable[[Path], None] = break_engine) -> WorkerProcess:
    how(rig.folder)
    worker = WorkerProcess(
        rig.settings,
        rig.folder / "worker.log",
        program="tests.faults.aborting_engine",
        environment=aborting_environment(rig.folder),
    )
    rig.workers.append(worker)
    return worker


def poisoned_texts(count: int) -> list[Item]:
    return [
        Item(id=f"text-{n}", text=POISON if n == POISONED else f"the words of text {n}")
        for n in range(count)
    ]


def test_a_shard_that_ends_its_process_each_time_is_refused_beside_its_neighbours_vectors(
    rig: Rig, record: Record
) -> None:
    items = poisoned_texts(3 * SHARD)
    rig.note("dataset", [item.id for item in items])
    path, model = rig.dataset_path(), str(rig.settings.model)
    submit(ListSource(items), path, model, settings=rig.settings)
    worker = start_aborting_worker(rig)
    worker.wait_for("message refused")
    worker.wait_for("engine loaded", count=1 + ATTEMPTS)
    rig.wait_for_items(2 * SHARD)
    assert rig.counts("dataset") == (2 * SHARD, 0)

    status = rig.run("status", path)
    how = f"it ended the engine's process {ATTEMPTS} times; the last time: signal 6 (SIGABRT)"
    assert f"refused shard 00001-0000001: {how}" in status.stdout
    assert "1 shards refused: mend the cause, then `clipfleet resume`" in status.stdout

    mend_engine(rig.folder)
    rig.recovery_begins()
    assert rig.run("resume", path).returncode == 0
    record(rig.outcome("a shard on which the engine's process aborts, then mended and resumed"))
    assert deaths(worker) == ATTEMPTS
    assert "refused" not in rig.run("status", path).stdout


def test_single_items_of_a_batch_that_ends_its_process_each_time_are_errors_to_retry(
    rig: Rig, record: Record
) -> None:
    rig.queue_items([{"id": item.id, "text": item.text} for item in poisoned_texts(2 * SHARD)])
    worker = start_aborting_worker(rig)
    name = "items-txt"
    rig.wait_for_items(2 * SHARD, name, timeout_s=120)
    vectors, failed = rig.counts(name)
    assert 1 <= failed <= SHARD
    assert vectors + failed == 2 * SHARD
    assert errors(rig, name) == {ENGINE_CRASHED: failed}
    assert deaths(worker) == ATTEMPTS

    mend_engine(rig.folder)
    rig.recovery_begins()
    assert rig.run("retry", rig.dataset_path(name), "--only", "transient").returncode == 0
    wait_until(lambda: errors(rig, name) == {} and rig.in_redis() == (0, 0), what="the retry")
    record(
        rig.outcome(
            "single items on which the engine's process aborts, then mended and retried", name=name
        )
    )


def test_a_shard_is_refused_too_if_its_whole_worker_dies_each_time(
    make_rig: MakeRig, record: Record
) -> None:
    """As where the memory of a container is full, and the kernel kills all that is in it."""
    rig = make_rig(shard_size=SHARD, shard_attempts=2)
    rig.submit(SHARD)
    for _ in range(2):
        rig.hold(Step.ENGINE)
        worker = rig.start_held_worker()
        rig.wait_held(Step.ENGINE, count=len(rig.workers))
        worker.kill()
    rig.start_worker().wait_for("message refused")
    status = rig.run("status", rig.dataset_path())
    assert "its workers died, or lost Redis, 2 times while they had it" in status.stdout
    rig.recovery_begins()
    assert rig.run("resume", rig.dataset_path()).returncode == 0
    record(rig.outcome("a shard whose whole worker is killed each time, resumed"))


def test_a_worker_whose_engine_process_dies_at_each_start_stops_and_says_why(
    rig: Rig, record: Record
) -> None:
    rig.submit(SHARD)
    worker = start_aborting_worker(rig, break_loading)
    assert worker.wait() == 2
    reason = worker.log_text().splitlines()[-1]
    assert f"the engine of {rig.settings.model} did not load: its process died 3 times" in reason
    assert "the last time: signal 6 (SIGABRT); run `clipfleet doctor`" in reason
    assert worker.log_text().count("exited with 'signal 6 (SIGABRT)'") == 3
    assert worker.events("engine loaded") == []

    mend_engine(rig.folder)
    rig.recovery_begins()
    rig.start_worker()
    record(rig.outcome("the engine's process dies at each start, then mended and started again"))

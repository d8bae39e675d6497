"""Pictures that end the process which decodes them, and shards that are only unlucky."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from clipfleet.jobs import DECODE_TIMEOUT, DECODER_CRASHED, Item
from storage.dataset import Dataset
from storage.failures import count_failures
from storage.sources import ListSource
from tasks.submit import submit
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import FULL, Rig
from tests.faults.pictures import poisoned_environment, write_pictures
from tests.faults.steps import Step
from tests.integration.support import WorkerProcess, wait_until

pytestmark = pytest.mark.integration

ATTEMPTS = 3
SHARD = 20  # items
KILLS = 10 if FULL else 4  # more than the attempts of an item


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(
        tower="img",
        shard_size=SHARD,
        window_items=SHARD,
        item_attempts=ATTEMPTS,
        decode_timeout_s=1.5,
        shard_deadline_s=4,
    )


def submit_pictures(rig: Rig, items: Sequence[Item]) -> None:
    rig.note("dataset", [item.id for item in items])
    path, model = rig.dataset_path(), str(rig.settings.model)
    submit(ListSource(list(items)), path, model, settings=rig.settings)


def start_poisoned_worker(rig: Rig) -> WorkerProcess:
    log_path = rig.folder / f"worker-{len(rig.workers)}.log"
    worker = WorkerProcess(rig.settings, log_path, environment=poisoned_environment())
    rig.workers.append(worker)
    return worker


def deaths(*workers: WorkerProcess) -> int:
    """Return how many children of workers were started again."""
    return sum(len(worker.events("engine loaded")) - 1 for worker in workers)


def errors(rig: Rig, name: str = "dataset") -> dict[str, int]:
    return dict(count_failures(Dataset.open(rig.dataset_path(name))))


def test_a_picture_that_ends_its_process_is_one_error_after_one_death(
    rig: Rig, record: Record
) -> None:
    submit_pictures(rig, write_pictures(rig.folder / "in", 4 * SHARD, {30: "ABORT"}))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture whose decoder aborts, among four shards"))
    assert errors(rig) == {DECODER_CRASHED: 1}
    assert deaths(worker) == 1
    assert len(worker.events("image ended its decoder")) == ATTEMPTS


def test_several_poisoned_pictures_in_a_shard_cost_it_one_death_in_all(
    rig: Rig, record: Record
) -> None:
    poisons = {3: "ABORT", 4: "SIGKILL", 17: "ABORT"}
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, poisons))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("three pictures in a shard whose decoders abort or are killed"))
    assert errors(rig) == {DECODER_CRASHED: 3}
    assert deaths(worker) == 1


def test_a_decoder_that_hangs_ends_as_an_error_after_the_deadline(rig: Rig, record: Record) -> None:
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, {7: "HANG"}))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture that holds its decoder for ever"))
    assert errors(rig) == {DECODE_TIMEOUT: 1}
    assert deaths(worker) == 1
    assert len(worker.events("nothing done within the deadline, child killed")) == 1


def test_a_slow_shard_that_goes_on_is_never_killed(make_rig: MakeRig, record: Record) -> None:
    rig = make_rig(tower="img", shard_size=160, shard_deadline_s=4, decode_threads=2)
    slow = dict.fromkeys(range(160), "SLOW")  # 8 s, which is 1.6 s a batch
    submit_pictures(rig, write_pictures(rig.folder / "in", 160, slow))
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a shard that takes two deadlines, and goes on"))
    assert deaths(worker) == 0


def test_single_items_are_isolated_in_the_same_way(rig: Rig, record: Record) -> None:
    items = write_pictures(rig.folder / "in", 2 * SHARD, {5: "ABORT"})
    told: list[dict[str, Any]] = [{"id": item.id, "uri": item.uri} for item in items]
    rig.queue_items(told)
    worker = start_poisoned_worker(rig)
    record(rig.outcome("a picture whose decoder aborts, queued singly", name="items-img"))
    assert errors(rig, "items-img") == {DECODER_CRASHED: 1}
    assert deaths(worker) == 1


def test_a_picture_that_ends_the_whole_worker_is_an_error_too(rig: Rig, record: Record) -> None:
    """As where the memory of a container is full, and the kernel kills all that is in it."""
    submit_pictures(rig, write_pictures(rig.folder / "in", 2 * SHARD, {5: "HANG"}))
    first = start_poisoned_worker(rig).ready()
    wait_until(lambda: rig.in_redis()[1], timeout_s=20, what="a shard in hand")
    time.sleep(0.3)
    first.kill()
    rig.recovery_begins()
    second = start_poisoned_worker(rig)
    record(rig.outcome("a picture that ended the whole worker"))
    assert errors(rig) == {DECODE_TIMEOUT: 1}
    assert deaths(second) == 0  # what comes back from a dead worker goes carefully at once


def test_an_innocent_shard_that_is_killed_again_and_again_is_vectors_only(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(tower="img", shard_size=SHARD, item_attempts=ATTEMPTS)
    rig.hold(Step.ENGINE)
    submit_pictures(rig, write_pictures(rig.folder / "in", SHARD, {}))
    worker = rig.start_held_worker()
    for killed in range(1, KILLS + 1):
        rig.wait_held(Step.ENGINE)
        worker.signal_child(signal.SIGKILL)
        rig.release(Step.ENGINE)
        if killed < KILLS:
            rig.hold(Step.ENGINE)
    rig.recovery_begins()
    record(rig.outcome(f"an innocent shard whose process is killed {KILLS} times"))
    assert errors(rig) == {}
    assert deaths(worker) == KILLS

"""A fleet that is killed, stopped, put to sleep, and given the same shard twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from clipfleet.messages import Shard
from tests.faults.conftest import MakeRig, Record
from tests.integration.support import WorkerProcess, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration


def runs_of(*workers: WorkerProcess) -> list[str]:
    """Return what became of the shards that workers ran, a run each, in no order."""
    return sorted(e["event"] for worker in workers for e in worker.events() if "shard" in e)


def test_a_killed_worker_leaves_its_shards_to_the_others(make_rig: MakeRig, record: Record) -> None:
    rig = make_rig()
    rig.hold(Step.ENGINE)
    rig.submit(500)
    first = rig.start_held_worker()
    rig.wait_held(Step.ENGINE)
    second = rig.start_worker().ready()
    wait_until(lambda: rig.in_redis() == (0, 2), what="only the held shards left")
    first.kill()
    rig.recovery_begins()
    record(rig.outcome("worker killed, another is there"))
    assert runs_of(first, second) == ["shard embedded"] * 5


def test_a_killed_worker_whose_clock_is_ahead_holds_nothing_for_longer(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.02)
    rig.submit(200)
    ahead = WorkerProcess(
        rig.settings,
        rig.folder / "ahead.log",
        program="tests.faults.fast_clock",
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    rig.workers.append(ahead)
    ahead.wait_for("shard embedded")
    ahead.kill()
    rig.recovery_begins()
    rig.start_worker()
    record(rig.outcome("worker whose clock is an hour ahead killed, another started"))


def test_a_parent_killed_alone_takes_its_child_along(make_rig: MakeRig, record: Record) -> None:
    rig = make_rig()
    rig.hold(Step.ENGINE)
    rig.submit(200)
    first = rig.start_held_worker().ready()
    rig.wait_held(Step.ENGINE)
    os.kill(first.process.pid, signal.SIGKILL)
    rig.recovery_begins()
    first.process.wait()
    rig.start_worker()
    record(rig.outcome("worker's parent killed alone, started again"))
    child = Path(f"/proc/{first.child_pid()}")
    wait_until(lambda: not child.exists(), what="the child is gone")


def test_all_workers_killed_at_once_go_on_when_they_are_started(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001)
    rig.submit_half(1_000, workers=2)
    for worker in rig.workers:
        worker.kill()
    rig.recovery_begins()
    rig.start_worker()
    rig.start_worker()
    record(rig.outcome("every worker killed at once, started again"))


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stopped_worker_hands_on_what_it_did_not_do(
    make_rig: MakeRig, record: Record, signals: int
) -> None:
    rig = make_rig(item_s=0.005)
    rig.hold(Step.ENGINE)
    rig.submit(300)
    first = rig.start_held_worker()
    rig.wait_held(Step.ENGINE)
    wait_until(lambda: rig.in_redis() == (1, 2), what="another is reserved")
    for _ in range(signals):
        first.process.send_signal(signal.SIGTERM)
    rig.recovery_begins()
    rig.release(Step.ENGINE)
    second = rig.start_worker()
    record(rig.outcome("worker stopped with SIGTERM" + ", and another SIGTERM" * (signals - 1)))
    assert first.wait() == 0
    assert runs_of(first, second) == ["shard embedded"] * 3


@pytest.mark.parametrize("step", [Step.WRITES, Step.RENAMED])
def test_a_worker_that_sleeps_past_redelivery_does_no_harm_when_it_wakes(
    make_rig: MakeRig, record: Record, step: Step
) -> None:
    rig = make_rig()
    rig.hold(step)
    rig.submit(300)
    sleeper = rig.start_held_worker().ready()
    rig.wait_held(step)
    with sleeper.suspended():
        rig.recovery_begins()
        other = rig.start_worker()
        fault = rig.outcome(f"machine asleep past redelivery while it {step.value}")
        assert other.events("shard embedded")
        rig.release(step)
    sleeper.wait_for("shard embedded")  # as far as it knows
    woken = rig.outcome(fault.name)
    assert (woken.vectors, woken.lost, woken.doubled, woken.problems) == (300, 0, 0, ())
    other.stop()
    before = len(sleeper.events("shard was done before"))
    rig.queue_again(Shard(job="00001", index=0, size=100))
    # The sleeper still takes work, and does none.
    sleeper.wait_for("shard was done before", count=before + 1)
    again = rig.outcome(fault.name)
    assert (again.vectors, again.lost, again.doubled, again.problems) == (300, 0, 0, ())
    assert sleeper.stop() == 0
    record(fault)


def test_a_shard_that_two_workers_run_at_once_is_written_once(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig()
    rig.submit(100)
    for count in (1, 2):  # both have embedded it, and are about to write it
        rig.hold(Step.WRITES)
        rig.start_held_worker()
        rig.wait_held(Step.WRITES, count=count)
        if count == 1:
            for _ in range(2):  # the first worker reserves one of them
                rig.queue_again(Shard(job="00001", index=0, size=100))
    rig.recovery_begins()
    rig.release(Step.WRITES)
    record(rig.outcome("same shard run by two workers at once"))
    assert runs_of(*rig.workers) == ["shard embedded"] * 2 + ["shard was done before"]


def test_a_shard_that_is_slower_than_redelivery_runs_once(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.03, visibility_timeout_s=1)
    rig.submit(100)
    workers = [rig.start_worker(), rig.start_worker()]
    wait_until(lambda: rig.in_redis() != (1, 0), what="it is held")
    rig.recovery_begins()
    record(rig.outcome("slow shard: 3 s, redelivery after 1 s"))
    assert [worker.stop() for worker in workers] == [0, 0]  # which would finish a second run
    assert runs_of(*workers) == ["shard embedded"]

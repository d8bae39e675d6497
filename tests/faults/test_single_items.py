"""A worker killed with -9 while it embeds items that came singly, which no plan has."""

from __future__ import annotations

import signal

import pytest

from tests.faults.conftest import MakeRig, Record
from tests.integration.support import texts
from tests.steps import Step

pytestmark = pytest.mark.integration

ITEMS = "items-txt"


def test_a_worker_killed_with_a_message_on_its_way_loses_no_item(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig()
    worker = rig.start_held_worker().ready()
    rig.hold(Step.TAKEN)
    rig.queue_items(texts(20))
    rig.wait_held(Step.TAKEN)
    worker.kill()
    rig.recovery_begins()
    rig.release(Step.TAKEN)
    rig.start_worker()
    record(rig.outcome(f"single items: worker killed while it {Step.TAKEN.value}", name=ITEMS))


@pytest.mark.parametrize("step", [Step.ENGINE, Step.RENAMED])
@pytest.mark.parametrize("whole", [False, True], ids=["child", "worker"])
def test_a_worker_killed_in_a_batch_loses_no_item(
    make_rig: MakeRig, record: Record, step: Step, whole: bool
) -> None:
    rig = make_rig()
    worker = rig.start_held_worker().ready()
    rig.hold(step)
    rig.queue_items(texts(200))
    rig.wait_held(step)
    worker.kill() if whole else worker.signal_child(signal.SIGKILL)
    rig.recovery_begins()
    rig.release(step)
    if whole:
        rig.start_worker()
    what = "worker" if whole else "worker's child"
    record(rig.outcome(f"single items: {what} killed while it {step.value}", name=ITEMS))

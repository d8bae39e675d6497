"""A worker killed with -9 while it embeds items that came singly, which no plan has."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Any

import pytest

from clipfleet.errors import DatasetError
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig
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


EACH = 5  # items of a message
ROUNDS = 20


def planned_texts(first: int, end: int) -> list[dict[str, Any]]:
    """Return the items that `rig.submit` plans, as an ETL system queues them."""
    return [{"id": f"text-{n}", "text": f"the words of text {n}"} for n in range(first, end)]


def submit_again_if_told(rig: Rig, count: int) -> None:
    while True:
        with suppress(DatasetError):  # some of them were written while it planned: run again
            rig.submit(count)
            return


def test_an_id_that_is_submitted_and_sent_singly_at_the_same_moment_is_embedded_once(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(window_s=0.02, shard_size=EACH)
    rig.start_held_worker().ready()
    rig.hold(Step.WRITES)
    rig.queue_items(planned_texts(0, EACH), size=EACH, dataset="dataset")
    rig.wait_held(Step.WRITES)  # it has looked at the plan, in which these are not
    rig.submit(EACH)
    rig.release(Step.WRITES)
    for n in range(1, ROUNDS):
        rig.queue_items(planned_texts(n * EACH, (n + 1) * EACH), size=EACH, dataset="dataset")
        time.sleep(0.004 * n)  # the window and more
        submit_again_if_told(rig, (n + 1) * EACH)
    rig.recovery_begins()
    record(rig.outcome("an id submitted and sent singly at the same moment"))

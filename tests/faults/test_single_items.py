"""A worker killed with -9 while it embeds items that came singly, which no plan has."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig, open_rig
from tests.integration.support import texts, wait_until
from tests.steps import Step

pytestmark = pytest.mark.integration

LOST = 5


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One fleet for all tests of this file: the worker of one goes on in the next."""
    with open_rig(tmp_path_factory.mktemp("single-items")) as opened:
        opened.start_held_worker().ready()
        yield opened


@pytest.mark.parametrize("step", [Step.ENGINE, Step.RENAMED])
@pytest.mark.parametrize("whole", [False, True], ids=["child", "worker"])
def test_a_worker_killed_in_a_batch_loses_no_item(
    rig: Rig, record: Record, step: Step, whole: bool
) -> None:
    what = "worker" if whole else "worker's child"
    name = f"{step.name}-{whole}"
    worker = rig.workers[-1]
    rig.hold(step)
    rig.queue_items(texts(200), dataset=name)
    rig.wait_held(step)
    worker.kill() if whole else worker.signal_child(signal.SIGKILL)
    rig.recovery_begins()
    rig.release(step)
    if whole:
        rig.start_held_worker()
    record(rig.outcome(f"single items: {what} killed while it {step.value}", name=name))


def test_a_worker_killed_with_a_message_on_its_way_loses_no_item(rig: Rig, record: Record) -> None:
    rig.hold(Step.TAKEN)
    rig.queue_items(texts(20), dataset="taken")
    rig.wait_held(Step.TAKEN)
    rig.workers[-1].kill()
    rig.recovery_begins()
    rig.release(Step.TAKEN)
    rig.start_worker()
    record(rig.outcome(f"single items: worker killed while it {Step.TAKEN.value}", name="taken"))


def test_a_network_that_loses_messages_on_their_way_loses_no_item(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(proxied=True, visibility_timeout_s=10)  # the default: it reconnects before
    for _ in range(2):
        rig.start_worker().ready()
    rig.proxy.lose_messages(LOST)
    rig.queue_items(texts(25))
    wait_until(lambda: not rig.proxy.to_lose, what=f"{LOST} lost messages")
    rig.recovery_begins()
    what = f"single items: {LOST} messages swallowed on their way to workers"
    record(rig.outcome(what, name="items-txt"))
    assert all(worker.process.poll() is None for worker in rig.workers)

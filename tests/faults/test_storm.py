"""A storm over single items: workers killed, connections swallowed, Redis restarted, at random."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from clipfleet.errors import BrokerError
from clipfleet.tasks.items.queue import ItemQueue
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import FULL, Rig
from tests.integration.support import texts, wait_until
from tests.redis_server import KEEPS_ALL

pytestmark = pytest.mark.integration

STORM = {"kill": 30, "swallow": 30, "restart": 3}
ITEMS, MESSAGE_ITEMS = 20_000, 10
WORKERS = 3
PAUSE_S = 2.0  # between two events: about the time in which a worker starts
SEED = 23


@pytest.mark.skipif(not FULL, reason="minutes: python -m tests.faults --only storm")
def test_a_storm_loses_no_single_item(make_rig: MakeRig, record: Record) -> None:
    # Redis answers when its file has a message, so a restart loses none that it accepted.
    rig = make_rig(redis_options=(*KEEPS_ALL, "--appendfsync", "always"), proxied=True)
    for _ in range(WORKERS):
        rig.start_worker()
    producer = threading.Thread(target=produce, args=(rig,))
    producer.start()
    chance = random.Random(SEED)
    events = list(Counter(STORM).elements())
    chance.shuffle(events)
    for event in events:
        strike(rig, event, chance)
        time.sleep(PAUSE_S)
    producer.join()
    rig.recovery_begins()
    assert len(rig.submitted["storm"]) == ITEMS
    assert [worker.process.poll() for worker in rig.workers].count(None) == WORKERS
    record(
        rig.outcome(
            f"single items in a storm: {STORM['kill']} workers killed, {STORM['swallow']} messages "
            f"and connections swallowed, {STORM['restart']} times Redis killed, started again",
            name="storm",
        )
    )


def produce(rig: Rig) -> None:
    """Queue all items, evenly over the storm, each until Redis has it."""
    pause_s = sum(STORM.values()) * PAUSE_S * MESSAGE_ITEMS / ITEMS
    settings = rig.settings.model_copy(update={"redis_url": rig.server.url})
    with ItemQueue("txt", settings=settings) as queue:
        for start in range(0, ITEMS, MESSAGE_ITEMS):
            items = texts(MESSAGE_ITEMS, start)
            rig.note("storm", [item["id"] for item in items])
            while not accepted(queue, items):
                time.sleep(pause_s)
            time.sleep(pause_s)


def accepted(queue: ItemQueue, items: list[dict[str, str]]) -> bool:
    try:
        queue.put(items, dataset="storm", wait_s=60)
    except BrokerError:  # Redis is being restarted
        return False
    return True


def strike(rig: Rig, event: str, chance: random.Random) -> None:
    if event == "restart":
        rig.server.kill()
        rig.server.start()
    elif event == "kill":
        alive = [worker for worker in rig.workers if worker.process.poll() is None]
        chance.choice(alive).kill()
        rig.start_worker()
    else:
        rig.proxy.lose_messages(1)
        wait_until(lambda: not rig.proxy.to_lose, what="a message lost on its way")

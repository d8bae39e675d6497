"""Redis killed, emptied, full, and out of reach, in the middle of a job."""

from __future__ import annotations

import time

import pytest
from redis.exceptions import OutOfMemoryError

from clipfleet.errors import BrokerError
from clipfleet.tasks.items.queue import ItemQueue
from tests.faults.conftest import MakeRig, Record
from tests.faults.harness import Rig, seconds
from tests.integration.support import texts, wait_until
from tests.redis_server import KEEPS_ALL
from tests.steps import Step

pytestmark = pytest.mark.integration

ITEMS = 1_000
NEVER = 0.0  # seconds between the reconciler's looks
OUTAGE_S = seconds(60, 3)


def test_a_redis_with_an_append_only_file_that_is_killed_loses_nothing(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001, redis_options=KEEPS_ALL)
    rig.submit_half(ITEMS, workers=2)
    rig.server.kill()
    rig.go_on()
    time.sleep(1)
    rig.server.start()
    rig.recovery_begins()
    record(rig.outcome("Redis with append-only file killed, started again"))


def test_a_redis_that_lost_its_data_is_filled_again_by_resume(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001, reconcile_interval_s=NEVER)
    rig.submit_half(ITEMS, workers=1)
    rig.server.kill()
    rig.go_on()
    rig.server.start()
    rig.recovery_begins()
    resumed = rig.run("resume", rig.dataset_path())
    assert resumed.returncode == 0, resumed.stderr
    assert "open shards" in resumed.stdout
    record(rig.outcome("Redis lost all data, `clipfleet resume`"))


def test_workers_fill_a_redis_that_lost_its_data_by_themselves(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001)
    rig.submit_half(ITEMS, workers=1)
    rig.server.kill()
    rig.go_on()
    rig.server.start()
    rig.recovery_begins()
    record(rig.outcome("Redis lost all data, nobody does anything"))


def test_a_lost_message_is_queued_again(make_rig: MakeRig, record: Record) -> None:
    rig = make_rig(item_s=0.001)
    rig.submit(ITEMS)
    assert rig.client.lpop(rig.queue)
    rig.start_worker()
    wait_until(lambda: rig.counts("dataset")[0] >= 900, what="all others")
    rig.recovery_begins()
    record(rig.outcome("broker loses a message"))


def fill(rig: Rig) -> None:
    """Let Redis take no more than it has."""
    rig.client.config_set("maxmemory", int(rig.client.info("memory")["used_memory"]))


def test_workers_go_on_while_redis_is_out_of_memory_and_make_room(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.005)
    rig.submit_half(ITEMS, workers=1)
    rig.client.config_set("maxmemory", 1)
    refused = rig.run("resume", rig.dataset_path())
    assert refused.returncode == 2
    assert "out of memory" in refused.stderr
    assert "Traceback" not in refused.stderr
    fill(rig)
    rig.go_on()
    rig.recovery_begins()
    record(rig.outcome("Redis out of memory, and left so"))
    assert rig.workers[0].stop() == 0


def test_workers_start_while_redis_is_out_of_memory_and_make_room(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(max_queued_messages=1_000_000)
    rig.client.config_set("maxmemory", int(rig.client.info("memory")["used_memory"]) + 500_000)
    with pytest.raises(BrokerError, match="out of memory"):
        put_many(rig)
    rig.hold(Step.ENGINE)
    killed = rig.start_held_worker()
    rig.wait_held(Step.ENGINE)
    killed.kill()
    with pytest.raises(OutOfMemoryError):
        rig.client.set("more", "x")
    rig.recovery_begins()
    rig.start_worker()
    record(rig.outcome("Redis out of memory, all workers killed and started again", name="full"))
    assert rig.workers[-1].stop() == 0


def put_many(rig: Rig) -> None:
    """Queue single items until Redis refuses one."""
    with ItemQueue("txt", settings=rig.settings) as queue:
        for item in texts(1_000_000):
            queue.put([item], dataset="full")
            rig.note("full", [item["id"]])


def test_a_submit_into_a_full_redis_says_so_and_goes_on_later(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig()
    source = rig.write_source(800)
    submit = ["submit", str(source), rig.dataset_path(), "--model", str(rig.settings.model)]
    rig.client.config_set("maxmemory", int(rig.client.info("memory")["used_memory"]) + 100_000)
    refused = rig.run(*submit, "--shard-size", "5")
    assert refused.returncode == 2
    assert "out of memory" in refused.stderr
    assert "Traceback" not in refused.stderr
    rig.client.config_set("maxmemory", 0)
    rig.recovery_begins()
    assert rig.run(*submit).returncode == 0
    rig.start_worker()
    record(rig.outcome("Redis out of memory while shards are queued, submitted again"))


def test_a_redis_that_does_not_answer_for_a_while_stops_nobody_for_good(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001)
    rig.submit_half(ITEMS, workers=2)
    rig.server.sleep()
    rig.go_on()
    time.sleep(OUTAGE_S)
    rig.server.wake()
    rig.recovery_begins()
    record(rig.outcome(f"Redis does not answer for {OUTAGE_S:g} s"))


def test_a_redis_that_cannot_be_reached_for_a_while_stops_nobody_for_good(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001, proxied=True)
    rig.submit_half(ITEMS, workers=2)
    rig.proxy.cut()
    rig.go_on()
    time.sleep(OUTAGE_S)
    rig.proxy.open()
    rig.recovery_begins()
    record(rig.outcome(f"Redis out of reach for {OUTAGE_S:g} s"))


def test_connections_that_are_forgotten_on_the_way_are_made_anew(
    make_rig: MakeRig, record: Record
) -> None:
    rig = make_rig(item_s=0.001, proxied=True)
    rig.submit_half(ITEMS, workers=1)
    rig.proxy.swallow()
    rig.go_on()
    rig.recovery_begins()
    record(rig.outcome("connections to Redis swallowed"))

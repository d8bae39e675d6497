"""A queue that is full: plans wait for room, producers of single items are told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import BrokerError, QueueFullError
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import read_queued
from clipfleet.tasks.broker.deferred import defer
from clipfleet.tasks.broker.queue_stats import queue_length
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.items.queue import ItemQueue
from clipfleet.tasks.local.redis_server import server_command
from clipfleet.tasks.submit.resume import resume
from tests.integration.conftest import MakeBench
from tests.integration.support import PATIENCE_S, Bench, texts, wait_until

pytestmark = pytest.mark.integration

LIMIT = 10
EXAMPLE = Path(__file__).parents[2] / "examples" / "queue_items.py"


def rest(bench: Bench) -> str | None:
    told = read_queued(Dataset.open(bench.dataset_path()))
    assert told is not None
    return told.rest


def test_a_plan_a_hundred_times_longer_than_its_queue_costs_redis_a_full_queue(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(max_queued_shards=LIMIT, shard_size=1, reconcile_interval_s=0.2)
    submission = bench.submit(100 * LIMIT)
    assert (submission.queued_shards, submission.later_shards) == (LIMIT, 99 * LIMIT)
    assert bench.in_redis() == (LIMIT, 0)
    size_bytes = bench.client.memory_usage(bench.queue, samples=0)
    assert size_bytes is not None
    assert size_bytes < 2_000 * LIMIT
    assert rest(bench) == f"00001-{LIMIT:07d}"


def test_workers_queue_the_rest_as_there_is_room_and_lost_shards_before_it(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(max_queued_shards=LIMIT, reconcile_interval_s=0.2)
    submission = bench.submit(4_000)
    assert (submission.queued_shards, submission.later_shards) == (LIMIT, 40 - LIMIT)
    again = resume(bench.dataset_path(), settings=bench.settings)
    assert (again.open_shards, again.queued_shards, again.later_shards) == (40, 0, 30)
    bench.client.flushall()
    worker = bench.start_worker()
    longest = 0

    def done() -> bool:
        nonlocal longest
        longest = max(longest, sum(bench.in_redis()))
        return sum(bench.counts("dataset")) == 4_000

    wait_until(done, what="4,000 items")
    bench.wait_for_items(4_000)
    bench.assert_whole(vectors=4_000)
    assert longest <= LIMIT + 2  # two may be counted in both hands
    assert rest(bench) is None
    worker.stop()
    fed = worker.events("shards queued, as there is room")
    assert sum(event["shards"] for event in fed) == 40 - LIMIT
    (lost,) = worker.events("lost shards queued again")
    assert lost["shards"] == LIMIT
    assert len({event["shard"] for event in worker.events("shard embedded")}) == 40


def test_a_producer_is_told_that_the_queue_is_full_and_waits_for_room(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(max_queued_messages=LIMIT)
    with ItemQueue("txt", settings=bench.settings) as queue:
        for item in texts(LIMIT):
            queue.put([item])
        with pytest.raises(QueueFullError, match="10 messages wait, 10 may"):
            queue.put(texts(1, start=LIMIT))
        assert queue.length() == LIMIT
        bench.start_worker()
        queue.put(texts(1, start=LIMIT), wait_s=PATIENCE_S)
    bench.wait_for_items(LIMIT + 1, "items-txt")
    bench.assert_whole("items-txt", vectors=LIMIT + 1)


def test_the_example_producer_waits_for_room_by_asking_redis(bench: Bench) -> None:
    bench.queue_items(texts(3))
    command = [sys.executable, str(EXAMPLE), "--tower", "txt", "--most", "3", "one", "more"]
    with subprocess.Popen(
        [*command, "--redis-url", bench.settings.redis_url], stdout=subprocess.PIPE, text=True
    ) as producer:
        assert producer.stdout is not None
        assert producer.stdout.readline() == "3 messages wait, 3 may: waiting\n"
        assert bench.in_redis() == (3, 0)
        bench.client.delete(bench.queue)
        assert "queued 2 items" in producer.stdout.read()
    assert bench.in_redis() == (2, 0)


def test_the_guides_commands_tell_what_waits_and_what_workers_hold(
    make_bench: MakeBench,
) -> None:
    guide = Path(__file__).parents[2].joinpath("docs/how-to/etl.md").read_text(encoding="utf-8")
    commands = re.findall(r"^redis-cli (\w+ clipfleet\.img[.\w]*)", guide, flags=re.MULTILINE)
    assert len(commands) == 3
    bench = make_bench(window_s=300.0, window_items=LIMIT)
    bench.start_worker()
    bench.queue_items(texts(2))
    wait_until(lambda: bench.in_redis() == (0, 2), what="two messages in hand")
    defer(bench.client, bench.queue, ["{}"])
    client: Any = bench.client  # redis-py has no types for commands as they are typed
    asked = [command.replace(".img", ".txt").split() for command in commands]
    assert [client.execute_command(*words) for words in asked] == [0, 2, 1]


@pytest.fixture
def small_redis(tmp_path: Path) -> Iterator[Settings]:
    """A Redis that has room for a few hundred messages, and drops nothing."""
    socket = tmp_path / "redis.sock"
    command = [*server_command(), "--port", "0", "--unixsocket", str(socket), "--dir"]
    command += [str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]
    with subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(socket.exists, what="redis-server")
            yield load_settings(redis_url=f"redis+socket://{socket}")
        finally:
            server.terminate()


def test_a_redis_without_memory_drops_nothing_and_its_producers_are_told(
    small_redis: Settings,
) -> None:
    queued = 0
    with ItemQueue("txt", settings=small_redis) as queue:

        def put(count: int) -> None:
            nonlocal queued
            for _ in range(count):
                queue.put([{"id": str(queued), "text": "word " * 200}])
                queued += 1

        with pytest.raises(BrokerError, match=r"is out of memory .*: wait until workers"):
            put(5_000)
    assert queued > 100
    with connect(small_redis.redis_url) as client:
        assert queue_length(client, "clipfleet.txt") == queued

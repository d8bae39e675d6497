"""Held messages in a real Redis: each step is whole, needs no memory, and knows one clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from clipfleet.tasks.broker.held_messages import HeldMessages
from clipfleet.tasks.broker.queue_stats import lists_of, message_counts
from clipfleet.tasks.broker.redis_client import Client, connect
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

LONG_S, SHORT_S = 3600, 0.01
QUEUE = "q"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    with connect(server.url) as opened:
        yield opened
    server.kill()


@pytest.fixture(autouse=True)
def _empty(client: Client) -> None:
    client.config_set("maxmemory", 0)
    client.flushall()


def held_for(seconds: float) -> HeldMessages:
    return HeldMessages(QUEUE, visibility_timeout_s=seconds)


def take(client: Client, held: HeldMessages, tag: str) -> bytes | None:
    message: bytes | None = client.execute_command(*held.take_command(tag))  # type: ignore[no-untyped-call]
    return message


def expired(client: Client, held: HeldMessages) -> list[tuple[str, bytes]]:
    """Return what a sweep puts back, which is the next to be taken."""
    found = []
    for tag, message in held.expired(client):
        held.put_back(client, tag, message, to=QUEUE, last=False)
        found.append((tag, message))
    return found


def test_messages_are_taken_in_the_order_of_their_lists(client: Client) -> None:
    held = held_for(LONG_S)
    for name in reversed(lists_of(QUEUE)):
        client.lpush(name, f"{name} first", f"{name} second")
    wanted = [f"{name} {which}" for name in lists_of(QUEUE) for which in ("first", "second")]
    taken = [take(client, held, f"tag-{n}") for n in range(len(wanted) + 1)]
    assert taken == [*(one.encode() for one in wanted), None]
    assert message_counts(client, QUEUE) == (0, len(wanted))


def test_a_message_whose_holder_is_gone_returns_and_others_do_not(client: Client) -> None:
    client.lpush(QUEUE, "lost", "held")
    take(client, held_for(SHORT_S), "a tag that no worker knows")
    take(client, held_for(LONG_S), "tag")
    time.sleep(5 * SHORT_S)
    assert expired(client, held_for(LONG_S)) == [("a tag that no worker knows", b"lost")]
    assert message_counts(client, QUEUE) == (1, 1)


def test_a_renewed_message_stays_and_a_deleted_one_is_not_renewed(client: Client) -> None:
    client.lpush(QUEUE, "a", "b")
    short, long = held_for(SHORT_S), held_for(LONG_S)
    take(client, short, "renewed")
    take(client, short, "deleted")
    long.delete(client, "deleted")
    long.renew(client, ["renewed", "deleted", "never taken"])
    time.sleep(5 * SHORT_S)
    assert expired(client, long) == []
    assert client.zrange("q.unacked.times", 0, -1) == [b"renewed"]


def test_a_message_is_put_back_once(client: Client) -> None:
    client.lpush(QUEUE, "a")
    held = held_for(LONG_S)
    take(client, held, "tag")
    for last in (True, False):
        held.put_back(client, "tag", "a again", to=QUEUE, last=last)
    assert client.lrange(QUEUE, 0, -1) == [b"a again"]
    assert held.read(client, "tag") is None


def test_more_messages_return_than_one_answer_has(client: Client) -> None:
    client.lpush(QUEUE, *range(250))
    for n in range(250):
        take(client, held_for(SHORT_S), f"tag-{n}")
    client.zadd("q.unacked.times", {"left by a deletion": 0})
    time.sleep(5 * SHORT_S)
    assert len(expired(client, held_for(SHORT_S))) == 250
    assert message_counts(client, QUEUE) == (250, 0)
    assert not client.exists("q.unacked.times")


def test_no_step_needs_memory_of_redis(client: Client) -> None:
    client.lpush(QUEUE, "a", "b")
    client.config_set("maxmemory", 1)
    held = held_for(LONG_S)
    assert take(client, held, "one") == b"a"
    assert take(client, held, "two") == b"b"
    held.renew(client, ["one", "two"])
    held.put_back(client, "one", "a", to=QUEUE, last=False)
    held.delete(client, "two")
    assert expired(client, held) == []
    assert message_counts(client, QUEUE) == (1, 0)


def test_a_wrong_clock_of_a_worker_changes_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.lpush(QUEUE, "a")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    take(client, held_for(LONG_S), "tag")
    held_for(LONG_S).renew(client, ["tag"])
    now_s: Any = client.time()[0]
    until_s: Any = client.zscore("q.unacked.times", "tag")
    assert abs(now_s + LONG_S - until_s) < LONG_S / 2

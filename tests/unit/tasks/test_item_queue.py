"""Single items and a full queue, without Redis."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from clipfleet.errors import (
    BrokerError,
    QueueFullError,
    SettingsError,
    TransientError,
    UsageError,
)
from clipfleet.settings import load_settings
from clipfleet.tasks.items import queue as item_queue
from clipfleet.tasks.items.queue import ItemQueue

ITEM = {"id": "a", "text": "a red bicycle"}


class Clock:
    """A time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(item_queue, "time", clock)
    return clock


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> ItemQueue:
    """A queue of at most 10 messages, whose messages go nowhere."""
    queue = ItemQueue("txt", settings=load_settings(max_queued_messages=10))
    sent: list[Any] = []
    monkeypatch.setattr(queue._app, "send_task", lambda name, **told: sent.append(told))
    monkeypatch.setattr(queue, "sent", sent, raising=False)
    monkeypatch.setattr(item_queue, "evicting_policy", lambda _: "")
    return queue


def lengths(monkeypatch: pytest.MonkeyPatch, *found: int) -> None:
    """Have the queue be so long at one look after the other; the last stands."""
    left = list(found)
    monkeypatch.setattr(item_queue, "deferred_length", lambda *_: 0)
    monkeypatch.setattr(
        item_queue, "queue_length", lambda *_: left.pop(0) if len(left) > 1 else left[0]
    )


def test_a_full_queue_refuses_at_once_and_says_what_to_do(
    queue: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(monkeypatch, 12)
    with pytest.raises(QueueFullError, match=r"clipfleet\.txt is full: 12 messages wait, 10 may"):
        queue.put([ITEM])
    assert (queue.sent, clock.slept) == ([], [])


def test_the_error_can_be_tried_again_and_has_the_numbers(
    queue: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(monkeypatch, 10)
    with pytest.raises(TransientError) as caught:
        queue.put([ITEM], wait_s=7)
    assert isinstance(caught.value, QueueFullError)
    assert (caught.value.length, caught.value.limit) == (10, 10)
    assert "after 7 s" in str(caught.value)
    assert sum(clock.slept) == pytest.approx(7)
    assert max(clock.slept) <= 2


def test_a_producer_that_waits_is_let_in_when_there_is_room(
    queue: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(monkeypatch, 10, 10, 10, 9)
    queue.put([ITEM], wait_s=60, dataset="/out/mine")
    assert len(clock.slept) == 3
    assert clock.slept[2] > clock.slept[0]
    (told,) = queue.sent
    assert told["args"] == [[ITEM]]
    assert told["kwargs"] == {"dataset": "/out/mine"}


def test_without_redis_it_says_so() -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1/0")
    with ItemQueue("img", settings=settings) as queue, pytest.raises(BrokerError, match="redis://"):
        queue.put([{"id": "a", "uri": "/a.jpg"}])


@pytest.mark.parametrize(
    "items", [{"id": "a", "text": "a cat"}, "a cat", ["a cat"], [ITEM, "a cat"]], ids=str
)
def test_what_is_no_list_of_items_is_refused(
    queue: Any, items: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(monkeypatch, 0)
    with pytest.raises(UsageError, match="put takes a list of items"):
        queue.put(items)
    assert queue.sent == []


def test_items_may_be_generated(queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths(monkeypatch, 0)
    queue.put(item for item in (ITEM, ITEM))
    assert [told["args"] for told in queue.sent] == [[[ITEM, ITEM]]]


def test_a_redis_that_deletes_messages_is_warned_of_once(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(monkeypatch, 0)
    monkeypatch.setattr(item_queue, "evicting_policy", lambda _: "allkeys-lru")
    with pytest.warns(RuntimeWarning, match=r"policy allkeys-lru.*noeviction") as found:
        [queue.put([ITEM]) for _ in range(2)]
    assert len(found) == 1
    assert len(queue.sent) == 2


def test_a_producer_that_may_not_ask_redis_for_its_policy_queues(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> str:
        raise NoPermissionError("no permissions to run the 'info' command")

    lengths(monkeypatch, 0)
    monkeypatch.setattr(item_queue, "evicting_policy", refuse)
    queue.put([ITEM])
    assert len(queue.sent) == 1


def test_another_tower_is_refused() -> None:
    tower: Any = "image"
    with pytest.raises(UsageError, match="there is no tower 'image': expected one of img, txt"):
        ItemQueue(tower, settings=load_settings())


def test_given_settings_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    monkeypatch.setenv("CLIPFLEET_MAX_QUEUED_MESSAGES", "many")
    ItemQueue("txt", settings=settings).close()
    with pytest.raises(SettingsError, match="max_queued_messages"):
        ItemQueue("txt")

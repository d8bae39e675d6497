"""Refusals: the newest of each kind, those of shards until their dataset is queued again."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from clipfleet.settings import Settings
from clipfleet.tasks.broker import refusals as module
from clipfleet.tasks.broker.refusals import (
    KEPT_S,
    MAX_LOGGED,
    MAX_REFUSALS,
    Refusal,
    Refusals,
    refuse,
)


class Lists:
    """The few commands of Redis that refusals use, on lists."""

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {}
        self.expires_s: dict[str, int] = {}

    def pipeline(self, *, transaction: bool) -> AbstractContextManager[Lists]:
        assert not transaction
        return nullcontext(self)

    def execute(self) -> None:
        """Do nothing: every command was done when it came."""

    def lpush(self, key: str, entry: str) -> None:
        self.lists.setdefault(key, []).insert(0, entry)

    def ltrim(self, key: str, start: int, end: int) -> None:
        self.lists[key] = self.lists[key][start : end + 1]

    def expire(self, key: str, seconds: int) -> None:
        self.expires_s[key] = seconds

    def llen(self, key: str) -> int:
        return len(self.lists.get(key, []))

    def lrange(self, key: str, start: int, end: int) -> list[str]:
        assert (start, end) == (0, -1)
        return list(self.lists.get(key, []))

    def lrem(self, key: str, count: int, entry: str) -> None:
        assert count == 0
        self.lists[key] = [kept for kept in self.lists[key] if kept != entry]


def refusal(number: int, dataset: str = "/d", *, planned: bool = True) -> Refusal:
    return Refusal(
        planned=planned,
        message=f"shard {number}" if planned else f"{number} items",
        dataset=dataset,
        reason="wrong",
        time=f"2026-11-22T00:00:{number:02}",
    )


@pytest.fixture
def client() -> Any:
    return Lists()


@pytest.fixture
def refusals(client: Any) -> Refusals:
    return Refusals(client, "clipfleet")


@pytest.fixture
def refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> Refusals:
    """What `refuse` writes to, before any refusal was logged."""
    monkeypatch.setattr(module, "_client", lambda _: client)
    monkeypatch.setattr(module, "_logged", deque(maxlen=MAX_LOGGED))
    return Refusals(client, "clipfleet")


def test_refusals_of_shards_are_kept_until_their_dataset_is_queued_again(
    client: Any, refusals: Refusals
) -> None:
    for number, dataset in ((2, "/d"), (1, "/d"), (3, "/other\ud800")):
        refusals.record(refusal(number, dataset))
    assert [r.message for r in refusals.all()] == ["shard 1", "shard 2", "shard 3"]
    assert refusals.shards_of("/d") == {"1", "2"}
    refusals.forget("/d")
    assert [r.dataset for r in refusals.all()] == ["/other\ud800"]
    refusals.forget("/other\ud800")
    assert refusals.all() == []
    assert list(client.expires_s.values()) == [KEPT_S]


def test_refusals_of_single_items_stay_when_their_dataset_is_queued_again(
    refusals: Refusals,
) -> None:
    refusals.record(refusal(1, planned=False))
    refusals.record(refusal(1))
    refusals.forget("/d")
    assert [r.planned for r in refusals.all()] == [False]


def test_the_newest_of_each_kind_are_kept(refusals: Refusals) -> None:
    refusals.record(refusal(1))
    for number in range(MAX_REFUSALS + 50):
        refusals.record(refusal(number, planned=False))
    assert len(refusals.all()) == MAX_REFUSALS + 1
    assert not refusals.full
    for number in range(2, MAX_REFUSALS + 2):
        refusals.record(refusal(number))
    assert refusals.full
    assert refusals.shards_of("/d") == {str(number) for number in range(2, MAX_REFUSALS + 2)}


@pytest.mark.parametrize("letter", ["x", "\x1b", "\ud800"])
def test_what_a_message_says_is_kept_short_and_printable(refused: Refusals, letter: str) -> None:
    refuse(Settings(), letter * 5000, "/d", reason=letter * 5000)
    (kept,) = refused.all()
    assert (kept.message + kept.reason).isprintable()
    assert len(kept.message) + len(kept.reason) < 8000


def test_a_flood_of_refusals_is_logged_in_part(
    refused: Refusals, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("clipfleet.tasks.broker.refusals.time.monotonic", lambda: now_s)
    settings = Settings()
    for now_s in (0.0, 59.0, 61.0):  # noqa: B007 - the clock reads it
        for _ in range(MAX_LOGGED):
            refuse(settings, "x", "", reason="wrong", planned=False)
    logged = [record.msg for record in caplog.records if record.levelno == logging.ERROR]
    assert logged == ["message refused"] * 2 * MAX_LOGGED
    assert len(refused.all()) == 3 * MAX_LOGGED


def test_a_refusal_that_redis_does_not_take_is_in_the_log(
    refused: Refusals, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RedisConnectionError("cut")

    client.execute = fail
    refuse(Settings(), "shard 1", "/d", reason="wrong")
    assert [record.msg for record in caplog.records] == ["message refused", "refusal not recorded"]

"""Refusals: kept until their shards are queued again, and those of single items for a week."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from clipfleet.settings import Settings
from tasks import refusals as module
from tasks.refusals import MAX_LOGGED, MAX_REFUSALS, Minute, Refusal, Refusals, refuse


class Hash:
    """The few commands of Redis that refusals use, on dictionaries."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.expires_s = 0

    def pipeline(self, *, transaction: bool) -> AbstractContextManager[Hash]:
        assert not transaction
        return nullcontext(self)

    def execute(self) -> None:
        """Do nothing: every command was done when it came."""

    def hlen(self, key: str) -> int:
        return len(self.hashes.get(key, {}))

    def hset(self, key: str, field: bytes, value: bytes) -> None:
        self.hashes.setdefault(key, {})[field] = value

    def expire(self, key: str, seconds: int) -> None:
        self.expires_s = seconds

    def hvals(self, key: str) -> list[bytes]:
        return list(self.hgetall(key).values())

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict(self.hashes.get(key, {}))

    def hdel(self, key: str, *fields: bytes) -> None:
        for field in fields:
            del self.hashes[key][field]


def refusal(
    number: int, dataset: str = "/d", reason: str = "wrong", *, planned: bool = True
) -> Refusal:
    return Refusal(
        planned=planned,
        message=f"shard {number}",
        dataset=dataset,
        reason=reason,
        time=f"2026-11-22T00:00:{number:02}",
    )


def test_refusals_are_kept_by_dataset_until_it_is_submitted_again() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    for number, dataset in ((2, "/d"), (1, "/d"), (3, "/other")):
        refusals.record(refusal(number, dataset))
    assert [r.message for r in refusals.of_dataset("/d")] == ["shard 1", "shard 2"]
    refusals.forget("/d")
    assert [r.dataset for r in refusals.all()] == ["/other"]
    assert client.expires_s > 0


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Hash:
    """What `refuse` writes to, in a minute of its own."""
    made = Hash()
    monkeypatch.setattr(module, "_client", lambda _: made)
    monkeypatch.setattr(module, "_minute", Minute(lambda: 0.0))
    return made


@pytest.mark.parametrize("letter", ["x", "\x01", "\ud800"])
def test_a_flood_of_refusals_stays_small(client: Hash, letter: str) -> None:
    long = letter * 5000
    settings = Settings()
    for number in range(MAX_REFUSALS + 50):
        refuse(settings, f"{number} {long}", letter * 500 + str(number), reason=long)
        refuse(settings, f"shard {number}", long, reason=long, planned=False)
    refusals = Refusals(client, "clipfleet")  # type: ignore[arg-type]
    assert refusals.full
    assert len(refusals.all()) == 2 * MAX_REFUSALS
    for kept in client.hashes.values():
        assert len(kept) == MAX_REFUSALS
        assert max(len(field) + len(value) for field, value in kept.items()) < 16_384


def test_a_flood_of_refusals_is_logged_in_part(
    client: Hash, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(module, "_minute", Minute(lambda: now_s))
    settings = Settings()
    for now_s in (0.0, 59.0, 61.0):  # noqa: B007 - the clock reads it
        for _ in range(MAX_LOGGED):
            refuse(settings, "x", "", reason="r" * 100_000, planned=False)
            refuse(settings, "x", "", reason="", planned=False, level=logging.DEBUG)
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.msg for record in logged] == [
        *["message refused"] * MAX_LOGGED,
        "more messages are refused than are logged",
        *["message refused"] * MAX_LOGGED,
    ]
    assert len(logged[0].reason) < 1000  # type: ignore[attr-defined]
    assert len(client.hashes["clipfleet.refusals.items"]) == 6 * MAX_LOGGED


def test_refused_single_items_take_no_place_of_a_shards() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    for number in range(MAX_REFUSALS + 50):
        refusals.record(refusal(number, planned=False))
    assert len(refusals.all()) == MAX_REFUSALS
    assert not refusals.full
    refusals.record(refusal(1))
    assert [r.planned for r in refusals.all()].count(True) == 1


def test_refusals_of_single_items_stay_beside_each_other_and_after_a_submit() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    for _ in range(2):
        refusals.record(refusal(1, planned=False))
        refusals.record(refusal(1))
    assert len(refusals.of_dataset("/d")) == 3
    refusals.forget("/d")
    assert [r.planned for r in refusals.of_dataset("/d")] == [False, False]


def test_refusals_of_no_dataset_are_found() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    refusals.record(refusal(1, dataset=""))
    refusals.record(refusal(2))
    assert [r.message for r in refusals.of_no_dataset()] == ["shard 1"]


def test_half_a_letter_in_a_dataset_name_breaks_no_refusal() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    refusals.record(refusal(1, dataset="\ud800"))
    assert [r.dataset for r in refusals.all()] == ["\ud800"]
    refusals.forget("\ud800")
    assert refusals.all() == []


def test_what_is_no_refusal_hides_none_that_is() -> None:
    client = Hash()
    refusals = Refusals(client, "fleet")  # type: ignore[arg-type]
    refusals.record(refusal(1))
    wrong = '{"message": 5, "dataset": "/d", "reason": "", "time": 1}'
    for number, garbage in enumerate(("garbage", "[1]", "5", "{}", "[" * 99_999, wrong)):
        client.hset("fleet.refusals", b"garbage%d" % number, garbage.encode())
    assert refusals.all() == [refusal(1)]
    refusals.forget("/d")
    assert refusals.all() == []

"""Refusals: kept until their shards are queued again, and those of single items for a week."""

from __future__ import annotations

from typing import Any

from tasks.refusals import MAX_REFUSALS, Refusal, Refusals


class Hash:
    """The few commands of Redis that refusals use, on dictionaries."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.expires_s = 0

    def hlen(self, key: str) -> int:
        return len(self.hgetall(key))

    def hset(self, key: str, field: bytes | str, value: str) -> None:
        name = field.encode() if isinstance(field, str) else field
        self.hashes.setdefault(key, {})[name] = value.encode()

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


def test_refusals_stay_small() -> None:
    client: Any = Hash()
    refusals = Refusals(client, "clipfleet")
    for number in range(MAX_REFUSALS + 50):
        refusals.record(refusal(number, reason="x" * 10_000))
    kept = client.hvals("clipfleet.refusals")
    assert len(kept) == MAX_REFUSALS
    assert max(map(len, kept)) < 1000
    assert refusals.full


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
        client.hset("fleet.refusals", f"garbage{number}", garbage)
    assert refusals.all() == [refusal(1)]
    refusals.forget("/d")
    assert refusals.all() == []

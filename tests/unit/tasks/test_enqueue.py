"""Queueing: what of a dataset is in Redis, and under which name."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import Queued, write_queued
from clipfleet.tasks.broker.queue_stats import held_messages, waiting_messages
from clipfleet.tasks.submit import lock as lock_module
from clipfleet.tasks.submit.enqueue import name_in_messages, shards_in_redis
from clipfleet.tasks.submit.lock import dataset_digest, hold_lock
from tests.datasets import fake_dataset


class Lists:
    """The few commands of Redis that looking into a queue uses."""

    def __init__(self, waiting: list[bytes], held: list[bytes]) -> None:
        self.waiting, self.held = waiting, held

    def lrange(self, name: str, start: int, end: int) -> list[bytes]:
        return self.waiting[start : end + 1] if name == "q" else []

    def hscan_iter(self, name: str, count: int) -> Any:
        assert name == "q.unacked"
        return enumerate(self.held)


def test_the_shards_in_redis_are_found_among_other_messages() -> None:
    mine = dataset_digest("/d")
    messages = [{"headers": {"id": f"{mine}.00001-{n:07d}.x"}} for n in range(1500)]
    other = [{"headers": {"id": "some-uuid"}}, {"headers": None}, [1], "text", 5, {}]
    waiting = [json.dumps(m).encode() for m in (*messages, *other)] + [b"garbage", b"\xff"]
    held = [
        json.dumps({"headers": {"id": f"{mine}.00002-0000001.y"}}).encode(),
        b"garbage",
        b"[]",
    ]
    client: Any = Lists(waiting, held)
    found = shards_in_redis(client, "q")[mine]
    assert len(found) == 1501
    assert {"00001-0001499", "00002-0000001"} <= found
    assert len(list(waiting_messages(client, "q"))) == 1500 + 5
    assert len(list(held_messages(client, "q"))) == 1
    assert shards_in_redis(client, "q").keys() == {mine}


def test_a_dataset_keeps_the_name_that_its_first_messages_gave_it(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    assert name_in_messages(dataset) == dataset.root
    link = tmp_path / "link"
    link.symlink_to(dataset.root)
    write_queued(dataset, Queued(queue="q", dataset=str(link), last_job="00001"))
    assert name_in_messages(dataset) == str(link)
    assert name_in_messages(Dataset.open(str(link))) == str(link)


def test_a_copied_dataset_has_its_own_name(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    write_queued(dataset, Queued(queue="q", dataset=dataset.root, last_job="00001"))
    copy = tmp_path / "copy"
    Path(dataset.root).rename(copy)
    assert name_in_messages(Dataset.open(str(copy))) == str(copy)


class FlakyLock:
    """A lock that Redis does not renew the first time."""

    def __init__(self) -> None:
        self.renewed = threading.Event()
        self._asked = False

    def acquire(self, *, blocking: bool, **_: object) -> bool:
        return blocking

    def reacquire(self) -> None:
        if self._asked:
            self.renewed.set()
        self._asked = True
        if not self.renewed.is_set():
            raise RedisConnectionError("cut")

    def release(self) -> None: ...


def test_a_lock_is_renewed_although_redis_did_not_answer_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lock_module, "LOCK_S", 0.01)
    lock: Any = FlakyLock()
    with hold_lock(lock, wait=True):
        assert lock.renewed.wait(timeout=10)


class LongLock:
    """A lock that another process holds for longer than anybody waits in silence."""

    name = "q.queueing.d"

    def __init__(self) -> None:
        self.asked: list[float | None] = []
        self.redis = self

    def get(self, name: str) -> bytes:
        return b"77@other (abc)" if name == self.name else b""

    def acquire(self, *, blocking: bool, token: str, blocking_timeout: float | None = None) -> bool:
        assert f"{os.getpid()}@" in token
        self.asked.append(blocking_timeout)
        return blocking and len(self.asked) > 1

    def release(self) -> None:
        """Nobody waits for it."""


def test_a_long_wait_for_the_lock_is_told_once_with_who_holds_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lock: Any = LongLock()
    with hold_lock(lock, wait=True) as mine:
        assert mine
    assert lock.asked == [10, None]  # in silence, then without end
    (told,) = caplog.messages
    assert "77@other (abc) holds the lock q.queueing.d in Redis; waiting until" in told


def test_who_does_not_wait_for_the_lock_has_nothing_to_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lock: Any = LongLock()
    with hold_lock(lock, wait=False) as mine:
        assert not mine
    assert not caplog.messages

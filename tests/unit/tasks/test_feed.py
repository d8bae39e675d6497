"""How a plan that is longer than its queue is divided, decided without Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from clipfleet.messages import Shard
from clipfleet.settings import load_settings
from clipfleet.storage.format.enqueue_state import Queued, read_queued, write_queued
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.tasks.submit.enqueue import first_name, later, split_by_room
from clipfleet.tasks.submit.feed import feed
from clipfleet.tasks.submit.lock import dataset_digest
from clipfleet.tasks.submit.reconcile import lost_shards
from clipfleet.tasks.submit.submit import Submission
from tests.datasets import fake_dataset, numbered_texts

SHARDS = [Shard(job="00001", index=n, size=1) for n in range(5)]


def test_a_queue_takes_as_many_shards_as_it_has_room_for() -> None:
    settings = load_settings(max_queued_shards=4)
    in_redis = {"this": {"a"}, "another dataset": {"b"}}
    now, rest = split_by_room(SHARDS, in_redis, settings)
    assert ([s.index for s in now], [s.index for s in rest]) == ([0, 1], [2, 3, 4])
    assert first_name(rest) == "00001-0000002"


def test_a_full_queue_takes_none_and_an_empty_one_all() -> None:
    settings = load_settings(max_queued_shards=5)
    assert split_by_room(SHARDS, {"x": set("abcdefg")}, settings) == ([], SHARDS)
    now, rest = split_by_room(SHARDS, {}, settings)
    assert (now, first_name(rest)) == (SHARDS, None)


def test_without_looks_nobody_would_queue_the_rest_and_so_there_is_none() -> None:
    settings = load_settings(max_queued_shards=1, reconcile_interval_s=0)
    assert split_by_room(SHARDS, {}, settings) == (SHARDS, [])


def test_a_shard_that_waits_for_room_is_not_lost(tmp_path: Path) -> None:
    queued = Queued(queue="q", dataset="/d", last_job="00001", rest="00001-0000003")
    newer = Shard(job="00002", index=0, size=1)
    lost = lost_shards([*SHARDS, newer], queued, in_redis={"00001-0000001"}, refused=())
    assert [shard.index for shard in lost] == [0, 2]
    assert [s.index for s in (*SHARDS, newer) if queued.waits(s)] == [3, 4]
    dataset = fake_dataset(tmp_path)
    write_queued(dataset, queued)
    assert read_queued(dataset) == queued


def test_who_slept_over_its_lock_takes_no_later_job_out_of_sight(tmp_path: Path) -> None:
    dataset = fake_dataset(tmp_path)
    first = Queued(queue="q", dataset=dataset.root, last_job="00001")
    second = replace(first, last_job="00002", rest="00002-0000003")
    write_queued(dataset, second)
    write_queued(dataset, first)
    assert read_queued(dataset) == second
    fed = replace(second, rest=None)
    write_queued(dataset, fed)
    assert read_queued(dataset) == fed


def test_what_another_queued_before_the_lock_was_had_is_not_queued_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = fake_dataset(tmp_path)
    plan_items(dataset, ListSource(numbered_texts(5)), 1)
    queued = Queued(queue="q", dataset=dataset.root, last_job="00001", rest="00001-0000000")
    write_queued(dataset, queued)
    in_redis: dict[str, set[str]] = {}

    @contextmanager
    def hold_lock(*_: object, **__: object) -> Iterator[bool]:
        in_redis[dataset_digest(dataset.root)] = {"00001-0000000", "00001-0000001"}  # by a `resume`
        yield True

    published: list[str] = []

    def publish(shards: Sequence[Shard], *_: object) -> Iterator[Shard]:
        published.extend(shard.name for shard in shards)
        yield from shards

    monkeypatch.setattr("clipfleet.tasks.submit.feed.shards_in_redis", lambda *_: dict(in_redis))
    monkeypatch.setattr("clipfleet.tasks.submit.feed.queueing_lock", lambda *_: Mock())
    monkeypatch.setattr("clipfleet.tasks.submit.feed.hold_lock", hold_lock)
    monkeypatch.setattr("clipfleet.tasks.submit.feed.publish", publish)
    assert feed(Mock(), dataset, queued, load_settings(max_queued_shards=4)) == 2
    assert published == ["00001-0000002", "00001-0000003"]  # and there is no room for more
    told = read_queued(dataset)
    assert told is not None
    assert told.rest == "00001-0000004"


def test_a_submission_tells_what_waits_for_room() -> None:
    submission = Submission(
        dataset="/d",
        job="00001",
        planned_items=10,
        planned_shards=10,
        queued_shards=4,
        later_shards=6,
    )
    told = "queued 4 shards; the workers queue 6 more when there is room"
    assert submission.lines()[0].endswith(told)
    full = "queued nothing: the queue is full; the workers queue 10 more when there is room"
    none = replace(submission, queued_shards=0, later_shards=10)
    assert none.lines()[0].endswith(full)
    assert later(0) == ""

"""Removals: every id is one vector or one row of the errors, whichever process is killed."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings

from clipfleet.error_codes import EMPTY_FILE, REMOVED
from clipfleet.storage.commit.manifest import finish, unfinished
from clipfleet.storage.commit.remove import remove_ids
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import Crash, WatchedFilesystem, crashing_after
from tests.interleavings.interleaving import run_interleaved
from tests.interleavings.test_interleavings import IDS, planned_dataset, schedules, work
from tests.interleavings.test_newer_content import deliver, kills, stream
from tests.interleavings.test_retries import assert_once, assert_whole, retry, vectors

FAILED = ("c",)  # of two shards: abc, de


def embedded_dataset() -> Dataset:
    dataset = planned_dataset()
    work(dataset, failing=FAILED, seed=0, worker="first")
    return dataset


def remove(dataset: Dataset, ids: str) -> int:
    return remove_ids(dataset, list(ids), shard_size=2).removed


def assert_each_id_once(dataset: Dataset) -> None:
    """Check the ids; a record may differ from its part until the removal is finished."""
    found = vectors(dataset)
    assert len(found) == len(set(found))
    result = verify_dataset(dataset)
    assert (result.missing, result.doubled, result.unplanned) == (0, 0, 0)
    assert result.vectors + result.errors == len(IDS)


def test_at_every_moment_of_a_removal_every_id_is_there_once() -> None:
    dataset = embedded_dataset()
    moments = 0

    def look() -> None:
        nonlocal moments
        moments += 1
        assert_each_id_once(dataset)

    remove(replace(dataset, fs=WatchedFilesystem(dataset.fs, look)), "acd")
    assert moments > 30
    assert_whole(dataset, errors=3)


@pytest.mark.parametrize("operations", range(0, 90, 3))
def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next_command(
    operations: int,
) -> None:
    dataset = embedded_dataset()
    with contextlib.suppress(Crash):
        remove(crashing_after(dataset, operations), "acd")
    assert_each_id_once(dataset)
    finish(dataset)  # as `resume`, `submit` and `embed` do
    work(dataset, failing=(), seed=1, worker="w")  # which must not embed removed ids again
    assert unfinished(dataset) == []
    assert_once(dataset)
    assert count_failures(dataset) in ({EMPTY_FILE: 1}, {REMOVED: 3})
    remove(dataset, "acd")
    assert count_failures(dataset) == {REMOVED: 3}
    assert_whole(dataset, errors=3)


@settings(max_examples=30, deadline=None)
@given(schedule=schedules, first=kills, second=kills)
def test_a_removal_and_a_retry_at_the_same_time_leave_every_id_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = embedded_dataset()

    def writer(own: Dataset, number: int) -> None:
        if number:
            retry(own)
        else:
            remove(own, "bcd")

    run_interleaved(dataset, schedule, [first, second], writer)
    finish(dataset)
    retry(dataset)
    remove(dataset, "bcd")
    assert count_failures(dataset) == {REMOVED: 3}
    assert_whole(dataset, errors=3)


@settings(max_examples=30, deadline=None)
@given(schedule=schedules, first=kills, second=kills)
def test_a_removal_and_newer_content_of_one_part_leave_every_id_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = stream()

    def writer(own: Dataset, number: int) -> None:
        if number:
            deliver(own, "de")
        else:
            remove(own, "ab")

    run_interleaved(dataset, schedule, [first, second], writer)
    finish(dataset)
    deliver(dataset, "de")
    remove(dataset, "ab")
    finish(dataset)
    assert_once(dataset)
    assert_whole(dataset, errors=3)  # "c" failed

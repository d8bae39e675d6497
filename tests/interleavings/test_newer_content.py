"""Newer content of ids: every id is one vector or one error, whichever process is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfleet.items import Item
from clipfleet.storage.commit.manifest import Manifest, finish, unfinished
from clipfleet.storage.commit.newer_content import NewerContent, plan_newer_content
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import (
    Crash,
    WatchedFilesystem,
    crashing_after,
    embedded,
    make_card,
    memory_dataset,
    texts,
)
from tests.interleavings.interleaving import overtaken, run_interleaved
from tests.interleavings.test_interleavings import IDS, schedules, work
from tests.interleavings.test_retries import assert_once, assert_whole, vectors

FAILED = ("a", "c")
NEVER = -1

kills = st.one_of(st.none(), st.integers(0, 60))


def stream() -> Dataset:
    dataset = memory_dataset(kind="stream")
    with contextlib.closing(KnownIds(dataset)) as known:
        result = embedded(texts(*IDS), failing=FAILED)
        commit_single_items(dataset, known, result, card=make_card(), worker="items")
    return dataset


def newer(ids: Sequence[str], text: str = "newer") -> list[Item]:
    return [Item(id=id_, text=f"{text} {id_}") for id_ in ids]


def plan(dataset: Dataset, ids: Sequence[str], text: str = "newer") -> NewerContent:
    with contextlib.closing(KnownIds(dataset)) as known:
        return plan_newer_content(dataset, known, newer(ids, text), replace=True, shard_size=10)


def deliver(dataset: Dataset, ids: Sequence[str], *, failing: Sequence[str] = ()) -> None:
    """Do the work of a worker that gets newer content."""
    plan(dataset, ids)
    work(dataset, failing=failing, seed=1, worker="w")


def test_at_every_moment_of_a_replacement_every_id_is_there_once() -> None:
    dataset = stream()
    moments = 0

    def look() -> None:
        nonlocal moments
        moments += 1
        found = vectors(dataset)
        assert len(found) == len(set(found))
        result = verify_dataset(dataset)
        assert (result.missing, result.doubled, result.unplanned) == (0, 0, 0)
        assert result.vectors + result.errors == len(IDS)

    deliver(replace(dataset, fs=WatchedFilesystem(dataset.fs, look)), "abe", failing="e")
    assert moments > 30
    assert_whole(dataset, errors=2)


@pytest.mark.parametrize("operations", range(0, 60, 2))
def test_a_worker_that_is_killed_anywhere_leaves_every_id_once(operations: int) -> None:
    dataset = stream()
    with contextlib.suppress(Crash):
        deliver(crashing_after(dataset, operations), "abe")
    found = vectors(dataset)
    assert len(found) == len(set(found))
    deliver(dataset, "abe")  # the message is delivered again
    assert unfinished(dataset) == []
    assert_whole(dataset, errors=1)


@settings(max_examples=30, deadline=None)
@given(schedule=schedules, first=kills, second=kills)
def test_two_workers_that_replace_vectors_of_one_part_leave_every_id_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = stream()

    def writer(own: Dataset, number: int) -> None:
        deliver(own, ("ab", "de")[number])

    run_interleaved(dataset, schedule, [first, second], writer)
    deliver(dataset, "ab")
    deliver(dataset, "de")
    finish(dataset)
    assert_once(dataset)
    assert_whole(dataset, errors=1)


def test_a_worker_that_is_overtaken_by_another_replacement_leaves_every_id_once() -> None:
    mended = 0
    for after in range(16, 36):
        for crash_after in (after + 1, NEVER):
            dataset = stream()

            def overtake(dataset: Dataset = dataset) -> None:
                deliver(dataset, "de")

            slow = overtaken(dataset, after=after, overtake=overtake, crash_after=crash_after)
            with contextlib.suppress(Crash):
                deliver(slow, "ab")
            deliver(dataset, "ab")
            if crash_after != NEVER:  # it may have been killed before its second look at the part
                mended += bool(verify_dataset(dataset).doubled)
                finish(dataset)
            assert_whole(dataset, errors=1)
    assert mended


def test_two_newer_contents_of_one_id_are_embedded_in_the_order_of_their_jobs() -> None:
    dataset = stream()
    assert plan(dataset, "b", "second").job is not None
    assert [item.id for item in plan(dataset, "b", "third").undecided] == ["b"]
    work(dataset, failing=(), seed=1, worker="w")
    assert plan(dataset, "b", "third").job is not None
    work(dataset, failing=(), seed=2, worker="w")
    assert vectors(dataset).count("b") == 1
    assert_whole(dataset, errors=2)


def test_a_manifest_that_was_read_before_counts_a_replaced_vector_once() -> None:
    dataset = stream()
    manifest = Manifest(dataset)
    manifest.refresh()
    assert (manifest.vectors, manifest.errors) == (3, 2)
    deliver(dataset, "b")
    manifest.refresh()
    assert (manifest.vectors, manifest.errors - manifest.retried) == (3, 2)
    assert_whole(dataset, errors=2)

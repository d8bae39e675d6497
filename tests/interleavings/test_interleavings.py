"""Two writers of a shard, in any order, killed at any operation: every item ends as one row."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.commit import commit, complete, is_committed
from clipfleet.storage.commit.manifest import missing_shards, unfinished
from clipfleet.storage.commit.record import Commit, read_record
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import Job, jobs, read_job
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import (
    Crash,
    crashing_after,
    embedded,
    files_of,
    make_card,
    memory_dataset,
    texts,
)
from tests.interleavings.interleaving import overtaken, run_interleaved

IDS = ("a", "b", "c", "d", "e")
MOST_OPERATIONS = 12  # of one writer of one shard


def planned_dataset() -> Dataset:
    dataset = memory_dataset()
    assert plan_items(dataset, ListSource(texts(*IDS)), 3) is not None
    return dataset


def work(dataset: Dataset, *, failing: Sequence[str], seed: int, worker: str) -> list[Commit]:
    """Do the work of all messages of the job, as `clipfleet.tasks.embed_shard` does."""
    commits = []
    for job_shard in list(missing_shards(dataset)):
        name = job_shard.name
        if is_committed(dataset, name):
            continue
        done = complete(dataset, name)
        if done is not None:
            commits.append(done)
            continue
        shard_work = read_shard_work(dataset, job_shard)
        result = shard_work.finish(embedded(shard_work.items, failing=failing, seed=seed))
        commits.append(commit(dataset, name, result, card=make_card(), worker=worker))
    return commits


def assert_whole(dataset: Dataset) -> None:
    result = verify_dataset(dataset)
    assert result.problems == []
    assert result.planned == len(IDS)
    assert result.vectors + result.errors == len(IDS)


schedules = st.lists(st.integers(0, 1), max_size=80)
crashes = st.one_of(st.none(), st.integers(0, 2 * MOST_OPERATIONS))


@settings(max_examples=60)
@given(schedule=schedules, first=crashes, second=crashes)
def test_two_writers_of_a_job_leave_every_item_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = planned_dataset()
    commits: list[Commit] = []

    # The writers have other failures and other vectors: so a mix of both would be found.
    def writer(own: Dataset, number: int) -> None:
        failing = ("a", "d") if number else ("b",)
        commits.extend(work(own, failing=failing, seed=number, worker=f"w{number}"))

    run_interleaved(dataset, schedule, [first, second], writer)
    # No writer returned a commit that another writer replaced.
    assert [read_record(dataset, done.name) for done in commits] == commits
    work(dataset, failing=("c",), seed=2, worker="later")
    assert_whole(dataset)
    assert list(missing_shards(dataset)) == []


@settings(max_examples=60)
@given(schedule=schedules, first=crashes, second=crashes)
def test_single_items_of_two_workers_are_written_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = memory_dataset(kind="stream")
    batches = [texts("a", "b", "c"), texts("c", "d", "a", "e", "d")]

    def deliver(own: Dataset, number: int) -> None:
        known = KnownIds(own)
        result: Embedded = embedded(batches[number], failing=("c",), seed=number)
        commit_single_items(own, known, result, card=make_card(), worker=f"w{number}")

    run_interleaved(dataset, schedule, [first, second], deliver)
    for number in (0, 1):  # the queue delivers unacknowledged messages again
        deliver(dataset, number)
    for name in unfinished(dataset):
        complete(dataset, name)
    result = verify_dataset(dataset)
    assert result.problems == []
    assert (result.vectors, result.errors) == (4, 1)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("after", range(MOST_OPERATIONS))
def test_a_writer_that_is_overtaken_and_killed_anywhere_leaves_a_whole_dataset(
    after: int, deleted: bool
) -> None:
    for crash_after in range(after, 2 * MOST_OPERATIONS + 1):
        dataset = planned_dataset()
        if deleted:
            work(dataset, failing=("a", "e"), seed=3, worker="before")
            dataset.fs.delete("parts/00001-0000000.parquet")
        commits: list[Commit] = []

        def overtake(dataset: Dataset = dataset, commits: list[Commit] = commits) -> None:
            commits += work(dataset, failing=("a",), seed=1, worker="fast")

        slow = overtaken(dataset, after=after, overtake=overtake, crash_after=crash_after)
        with contextlib.suppress(Crash):
            commits += work(slow, failing=("b",), seed=0, worker="slow")
        work(dataset, failing=("c",), seed=2, worker="later")
        assert [read_record(dataset, done.name) for done in commits] == commits
        assert_whole(dataset)


@pytest.mark.parametrize("after", range(MOST_OPERATIONS))
def test_a_worker_of_single_items_that_is_overtaken_anywhere_writes_none_twice(after: int) -> None:
    dataset = memory_dataset(kind="stream")

    def deliver(own: Dataset, ids: str, worker: str) -> None:
        rows = embedded(texts(*ids), failing=("c",))
        commit_single_items(own, KnownIds(own), rows, card=make_card(), worker=worker)

    slow = overtaken(
        dataset, after=after, overtake=lambda: deliver(dataset, "cd", "fast"), crash_after=-1
    )
    deliver(slow, "abc", "slow")
    deliver(dataset, "cd", "again")
    result = verify_dataset(dataset)
    assert result.problems == []
    assert (result.vectors, result.errors) == (3, 1)


@pytest.mark.parametrize("operations", range(MOST_OPERATIONS))
def test_a_writer_killed_anywhere_is_finished_by_the_next(operations: int) -> None:
    dataset = planned_dataset()
    with pytest.raises(Crash):
        work(crashing_after(dataset, operations), failing=("a",), seed=1, worker="killed")
    work(dataset, failing=("b",), seed=2, worker="next")
    assert_whole(dataset)


def test_a_part_without_its_record_is_completed_from_its_own_footer() -> None:
    dataset = planned_dataset()
    work(dataset, failing=("a",), seed=1, worker="first")
    files = dict(files_of(dataset))
    name = "00001-0000000"
    for path in (f"manifest/{name}.json", f"errors/{name}.parquet"):
        del files_of(dataset)[path]

    # Another worker embedded the shard too, without a failure.
    late = embedded(texts("a", "b", "c"), seed=2)
    done = commit(dataset, name, late, card=make_card(), worker="second")

    assert (done.worker, done.vectors, done.errors) == ("first", 2, 1)
    assert files_of(dataset) == files


@settings(max_examples=60)
@given(schedule=schedules, first=crashes, second=crashes, deleted=st.sets(st.integers(0, 1)))
def test_deleted_parts_are_embedded_again_once(
    schedule: list[int], first: int | None, second: int | None, deleted: set[int]
) -> None:
    dataset = planned_dataset()
    work(dataset, failing=("a", "d"), seed=0, worker="before")
    for index in deleted:
        dataset.fs.delete(f"parts/00001-{index:07d}.parquet")

    def writer(own: Dataset, number: int) -> None:
        work(own, failing=("b",) if number else (), seed=number, worker=f"w{number}")

    run_interleaved(dataset, schedule, [first, second], writer)
    work(dataset, failing=("c",), seed=2, worker="later")
    assert_whole(dataset)


@settings(max_examples=60)
@given(schedule=schedules, first=crashes, second=crashes)
def test_two_planners_never_plan_an_item_twice(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = memory_dataset()
    planned: list[Job] = []
    sources = [ListSource(texts("a", "b", "c")), ListSource(texts("b", "c", "d", "e"))]

    def plan(own: Dataset, number: int) -> None:
        with contextlib.suppress(DatasetError):  # the other planner was first
            job = plan_items(own, sources[number], 2)
            planned.extend([job] if job else [])

    run_interleaved(dataset, schedule, [first, second], plan)
    assert [read_job(dataset, job.id) for job in planned] == planned
    for source in [
        *sources,
        sources[0],
    ]:  # once more: it deletes the losers' files
        plan_items(dataset, source, 2)
    work(dataset, failing=("a",), seed=0, worker="w")
    assert_whole(dataset)
    names = {name for name in dataset.fs.list("plan") if name.endswith(".parquet")}
    assert names == {f"{job.id}-{job.token}-0000.parquet" for job in jobs(dataset)}

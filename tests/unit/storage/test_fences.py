"""A job and single items with the same ids, in whatever order, and wherever one is killed:
every id ends as exactly one row."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfleet.errors import DatasetError, StorageError
from clipfleet.jobs import Item
from storage.arrivals import arrivals_name, commit_arrivals
from storage.dataset import Dataset
from storage.fences import put_fence
from storage.jobs import jobs, record_path
from storage.known_ids import KnownIds
from storage.manifest import complete, read_record, unfinished
from storage.parts import part_path
from storage.plan import Job, plan_items, plan_retry
from storage.proof import prove_dataset
from storage.sources import ListSource
from tests.datasets import (
    Crash,
    WatchedFilesystem,
    crashing_after,
    embedded,
    files_of,
    make_card,
    memory_dataset,
    texts,
)
from tests.interleavings.interleaving import overtaken, run_interleaved
from tests.interleavings.test_interleavings import work

PLANNED = ("a", "b", "c")
ARRIVING = ("b", "c", "d")
PLANNING = 27  # operations of the file system, at most, of a planner
ARRIVAL = 20  # and of a worker


def plan(dataset: Dataset, ids: tuple[str, ...] = PLANNED) -> Job | None:
    return plan_items(dataset, ListSource(texts(*ids)), 2)


def plan_or_not(dataset: Dataset, ids: tuple[str, ...] = PLANNED) -> Job | None:
    with contextlib.suppress(DatasetError):  # single items, or another planner, were first
        return plan(dataset, ids)
    return None


def arrive(dataset: Dataset) -> None:
    rows = embedded(texts(*ARRIVING), failing=("d",))
    commit_arrivals(dataset, KnownIds(dataset), rows, card=make_card(), worker="w")


def resume(dataset: Dataset) -> None:
    for name in unfinished(dataset):
        complete(dataset, name)


def finish(dataset: Dataset) -> None:
    """What goes on after somebody was killed: messages come again, a submit is run again."""
    resume(dataset)
    plan(dataset)
    arrive(dataset)
    work(dataset, failing=(), seed=1, worker="w")


def assert_whole(dataset: Dataset) -> None:
    proof = prove_dataset(dataset)
    assert proof.problems == []
    assert (proof.vectors, proof.errors) == (3, 1)
    # No plan file is there that no job has.
    names = {name for name in dataset.fs.list("plan") if name.endswith(".parquet")}
    assert names >= {f"{job.id}-{job.token}-0000.parquet" for job in jobs(dataset)}


def assert_whole_after(
    act: Callable[[Dataset], object], overtake: Callable[[Dataset], object], after: int
) -> None:
    """What acts is overtaken after so many operations, and then goes on, or is killed."""
    for crash_after in (-1, after):
        dataset = memory_dataset()
        slow = overtaken(
            dataset, after=after, overtake=partial(overtake, dataset), crash_after=crash_after
        )
        with contextlib.suppress(Crash):
            act(slow)
        finish(dataset)
        assert_whole(dataset)


@pytest.mark.parametrize("after", range(PLANNING))
def test_a_planner_that_items_overtake_anywhere_plans_none_of_them(after: int) -> None:
    assert_whole_after(plan_or_not, arrive, after)


@pytest.mark.parametrize("after", range(ARRIVAL))
def test_a_worker_that_a_job_overtakes_anywhere_writes_nothing_of_it(after: int) -> None:
    assert_whole_after(arrive, plan, after)


def retry(dataset: Dataset) -> None:
    plan_retry(dataset, (), 1)


def submit_others(dataset: Dataset) -> None:
    plan(dataset, ("c", "b"))


@pytest.mark.parametrize("operations", range(PLANNING))
def test_whoever_comes_after_a_planner_that_was_killed_anywhere_spoils_nothing(
    operations: int,
) -> None:
    for come in (arrive, plan, submit_others, retry, resume):
        dataset = memory_dataset()
        rows = embedded(texts("d"), failing=("d",))
        commit_arrivals(dataset, KnownIds(dataset), rows, card=make_card(), worker="before")
        with contextlib.suppress(Crash):
            plan(crashing_after(dataset, operations))
        come(dataset)
        finish(dataset)
        proof = prove_dataset(dataset)
        assert (come, proof.problems) == (come, [])
        assert proof.vectors + proof.errors == 4


@settings(max_examples=60)
@given(
    schedule=st.lists(st.integers(0, 2), max_size=150),
    killed=st.tuples(*[st.one_of(st.none(), st.integers(0, PLANNING))] * 3),
)
def test_two_planners_and_a_worker_leave_every_id_once(
    schedule: list[int], killed: tuple[int | None, ...]
) -> None:
    dataset = memory_dataset()

    def run(own: Dataset, number: int) -> None:
        if number == 0:
            arrive(own)
        else:
            plan_or_not(own, PLANNED if number == 1 else ("c", "a"))

    run_interleaved(dataset, schedule, killed, run)
    finish(dataset)
    assert_whole(dataset)


def test_a_job_takes_a_number_among_the_items_and_no_row() -> None:
    dataset = memory_dataset("img")
    plan_items(dataset, ListSource([Item(id="a", uri="/a")]), 1)
    name = arrivals_name(1)
    assert dataset.fs.list("parts") == [f"{name}.parquet"]
    record = read_record(dataset, name)
    assert record is not None
    assert (record.vectors, record.errors) == (0, 0)
    proof = prove_dataset(dataset)
    assert (proof.parts, proof.missing) == (0, 1)


def test_a_source_that_brings_nothing_new_takes_no_number() -> None:
    dataset = memory_dataset()
    plan(dataset)
    before = dict(files_of(dataset))
    assert plan(dataset) is None
    assert files_of(dataset) == before


def test_a_fence_without_its_job_is_told_and_the_next_submit_publishes_it() -> None:
    dataset = memory_dataset()
    job = plan(dataset)
    assert job is not None
    for path in (record_path(job.id), f"manifest/{arrivals_name(1)}.json"):
        dataset.fs.delete(path)
    assert "parts are unfinished" in prove_dataset(dataset).problems[0]
    assert plan(dataset) is None
    assert jobs(dataset) == [job]


def test_a_fence_whose_job_lost_its_number_says_nothing() -> None:
    dataset = memory_dataset()
    lost = plan(dataset)
    assert lost is not None
    dataset.fs.delete(record_path(lost.id))
    won = dataclasses.replace(lost, token="0", source="another's")
    dataset.fs.create(record_path(won.id), won.to_json().encode())
    complete(dataset, arrivals_name(1))
    assert jobs(dataset) == [won]


def test_a_plan_that_was_deleted_by_hand_stays_deleted_and_is_planned_anew() -> None:
    dataset = memory_dataset()
    plan(dataset)
    for name in dataset.fs.list("plan"):
        dataset.fs.delete(f"plan/{name}")
    known = KnownIds(dataset)
    known.refresh()
    assert (len(known), dataset.fs.list("plan")) == (0, [])
    new = plan(dataset)
    assert new is not None
    complete(dataset, arrivals_name(1))
    assert jobs(dataset) == [new]
    finish(dataset)
    assert_whole(dataset)


@pytest.mark.parametrize("refusing", [False, True])
def test_a_fence_that_a_store_took_without_saying_so_keeps_its_plan(refusing: bool) -> None:
    dataset = memory_dataset()
    fence = part_path(arrivals_name(1))

    def before() -> None:
        nonlocal refusing
        if refusing and dataset.fs.exists(fence):
            refusing = False
            raise StorageError("the store does not answer")

    class LostAnswer(WatchedFilesystem):
        def create(self, path: str, data: bytes | memoryview) -> bool:
            return super().create(path, data) and path != fence

    lost = dataclasses.replace(dataset, fs=LostAnswer(dataset.fs, before))
    if refusing:
        with pytest.raises(StorageError):
            plan(lost)
    else:
        job = plan(lost)
        assert job is not None
        assert jobs(dataset) == [job]
    finish(dataset)
    assert_whole(dataset)


def test_a_fence_that_was_moved_away_is_no_damage_and_the_next_takes_its_record() -> None:
    dataset = memory_dataset()
    plan(dataset)
    finish(dataset)
    dataset.fs.delete(part_path(arrivals_name(1)))
    assert_whole(dataset)
    plan(dataset, ("new",))
    records = [name for name in dataset.fs.list("manifest") if name.startswith("items-")]
    assert records == [f"{arrivals_name(n)}.json" for n in (2, 3)]


def test_what_was_read_of_jobs_and_fences_is_not_read_again() -> None:
    dataset = memory_dataset()
    operations = 0

    def before() -> None:
        nonlocal operations
        operations += 1

    def refresh() -> int:
        nonlocal operations
        operations = 0
        known.refresh()
        return operations

    known = KnownIds(dataclasses.replace(dataset, fs=WatchedFilesystem(dataset.fs, before)))
    for id_ in PLANNED:
        plan(dataset, (id_,))
    # Two lists; then of each job its record, its plan file and its fence.
    assert refresh() == 2 + 3 * len(PLANNED)
    assert refresh() == 2
    plan(dataset, ("new",))
    assert refresh() == 2 + 3


def test_a_worker_that_is_shown_an_old_list_of_the_plan_knows_a_job_by_its_fence() -> None:
    dataset = memory_dataset()
    plan(dataset)

    class OldPlan(WatchedFilesystem):
        def list(self, folder: str) -> list[str]:
            return [] if folder == "plan" else super().list(folder)

    arrive(dataclasses.replace(dataset, fs=OldPlan(dataset.fs, lambda: None)))
    work(dataset, failing=(), seed=1, worker="w")
    assert_whole(dataset)


def test_a_damaged_job_in_a_fence_is_named_and_leads_to_no_other_file() -> None:
    dataset = memory_dataset()
    job = plan(dataset)
    assert job is not None
    before = dataset.fs.list("plan")
    dataset.fs.delete(part_path(arrivals_name(1)))
    put_fence(dataset, arrivals_name(1), dataclasses.replace(job, id="../../x"))
    with pytest.raises(
        DatasetError, match=r"the job in .*parts/items-0000000001\.parquet is damaged"
    ):
        complete(dataset, arrivals_name(1))
    with pytest.raises(DatasetError, match="move the part away, and submit again"):
        KnownIds(dataset).refresh()
    assert dataset.fs.list("plan") == before

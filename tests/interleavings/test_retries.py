"""Retries: every id is exactly one vector or one error, whichever process is killed, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from clipfleet.error_codes import BAD_ITEM, EMPTY_FILE, MISSING
from clipfleet.errors import DatasetError
from clipfleet.storage.commit.commit import commit, complete
from clipfleet.storage.commit.manifest import Manifest, missing_shards, unfinished
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.footer import MAX_ATTEMPT
from clipfleet.storage.format.parquet import parquet_bytes
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.failures import (
    count_failures,
    error_classes,
    list_parts,
    read_failures,
    standing_failures,
)
from clipfleet.storage.plan.jobs import Job, job_path, jobs, plan_file_path, shards
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.retries import RetriedIds
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
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
from tests.interleavings.test_interleavings import (
    IDS,
    crashes,
    planned_dataset,
    schedules,
    work,
)

FAILED = ("a", "c", "d")  # of two shards: abc, de
PLANNING = range(12)  # operations of a planner of retries, and a few more
WORKING = range(51)  # of a worker of the retry below


def failed_dataset() -> Dataset:
    dataset = planned_dataset()
    work(dataset, failing=FAILED, seed=0, worker="first")
    return dataset


def single_items_dataset() -> Dataset:
    dataset = memory_dataset(kind="stream")
    deliver(dataset, failing=FAILED)
    return dataset


def deliver(dataset: Dataset, *, failing: Any = ()) -> None:
    with contextlib.closing(KnownIds(dataset)) as known:
        result = embedded(texts(*IDS), failing=failing)
        commit_single_items(dataset, known, result, card=make_card(), worker="items")


def retry(dataset: Dataset, *, failing: Any = (), size: int = 2, worker: str = "retry") -> None:
    """Do the work of `clipfleet retry` and of a worker; one shard has failures of two parts."""
    for name in unfinished(dataset):
        complete(dataset, name)
    with contextlib.suppress(DatasetError):  # another retry was first
        plan_retry(dataset, (), size)
    work(dataset, failing=failing, seed=9, worker=worker)


def errors_rows(dataset: Dataset) -> list[dict[str, Any]]:
    paths = sorted(path for path in files_of(dataset) if path.startswith("errors/"))
    tables = [pq.read_table(pa.BufferReader(files_of(dataset)[path])) for path in paths]
    return [row for table in tables for row in table.to_pylist()]


def vectors(dataset: Dataset) -> list[str]:
    paths = sorted(path for path in files_of(dataset) if path.startswith("parts/"))
    tables = [pq.read_table(pa.BufferReader(files_of(dataset)[path])) for path in paths]
    return [row["id"] for table in tables for row in table.to_pylist()]


def rows_by_the_readers_rule(dataset: Dataset) -> list[str]:
    """Return the ids of the errors by the rule in the docs: the newest attempt, and no vector."""
    have = vectors(dataset)
    newest = {row["id"]: row for row in sorted(errors_rows(dataset), key=lambda r: r["attempt"])}
    return sorted([*have, *(newest.keys() - set(have))])


def assert_once(dataset: Dataset) -> None:
    """Check that every id is there exactly once; a part may be unfinished at this moment."""
    result = verify_dataset(dataset)
    assert (result.missing, result.doubled, result.unplanned) == (0, 0, 0)
    assert result.vectors + result.errors == len(IDS)
    assert all("unfinished" in problem for problem in result.problems), result.problems
    assert rows_by_the_readers_rule(dataset) == list(IDS)


def assert_whole(dataset: Dataset, *, errors: int) -> None:
    """Check that the dataset is whole, also for readers that do not know retries."""
    result = verify_dataset(dataset)
    assert result.problems == []
    assert (result.vectors, result.errors) == (len(IDS) - errors, errors)
    assert sorted(vectors(dataset) + [row["id"] for row in errors_rows(dataset)]) == list(IDS)


MAKERS = pytest.mark.parametrize("make", [failed_dataset, single_items_dataset])


@MAKERS
def test_a_mended_item_moves_from_the_errors_to_a_part(make: Callable[[], Dataset]) -> None:
    dataset = make()
    job = plan_retry(dataset, (), 2)
    assert job is not None
    assert (job.items, job.shards, job.retry) == (3, 2, True)
    assert_once(dataset)
    work(dataset, failing=("c",), seed=1, worker="w")

    assert_whole(dataset, errors=1)
    (row,) = errors_rows(dataset)
    assert (row["id"], row["attempt"]) == ("c", 2)
    assert count_failures(dataset) == {EMPTY_FILE: 1}
    retry(dataset, failing=("c",))
    assert [row["attempt"] for row in errors_rows(dataset)] == [3]
    retry(dataset)
    assert_whole(dataset, errors=0)
    assert plan_retry(dataset, (), 2) is None


@MAKERS
def test_after_a_retry_every_id_is_known(make: Callable[[], Dataset]) -> None:
    dataset = make()
    retry(dataset, failing=("c",))
    before = dict(files_of(dataset))
    if dataset.info.kind == "planned":
        assert plan_items(dataset, ListSource(texts(*IDS)), 3) is None
    else:
        deliver(dataset)
    assert files_of(dataset) == before


def test_only_the_named_classes_are_retried() -> None:
    dataset = planned_dataset()
    classes = {"a": MISSING, "b": EMPTY_FILE, "c": BAD_ITEM}
    for shard in list(missing_shards(dataset)):
        result = embedded(read_shard_work(dataset, shard).items, failing=classes)
        failures = [replace(f, error=classes[f.item.id]) for f in result.failures]
        result = replace(result, failures=failures)
        commit(dataset, shard.name, result, card=make_card(), worker="w")

    found = error_classes(dataset)
    assert [(code, each.count, each.first.item.id) for code, each in found.items()] == [
        (EMPTY_FILE, 1, "b"),
        (MISSING, 1, "a"),
        (BAD_ITEM, 1, "c"),
    ]
    assert list(error_classes(dataset, (MISSING,))) == [MISSING]
    job = plan_retry(dataset, (MISSING,), 10)
    assert job is not None
    assert job.items == 1
    work(dataset, failing=(), seed=0, worker="w")
    assert_whole(dataset, errors=2)
    rest = plan_retry(dataset, (), 10)
    assert rest is not None
    assert rest.items == 1  # a bad item has no value to embed


def test_ids_in_any_order_and_script_are_found_in_plans() -> None:
    dataset = memory_dataset()
    ids = ("z", "é", "a" * 4096, "笑脸", "😀", "m", "Z")
    plan_items(dataset, ListSource(texts(*ids)), 3)
    work(dataset, failing=ids, seed=0, worker="w")
    plan_retry(dataset, (), 2)
    work(dataset, failing=("é", "a" * 4096), seed=1, worker="w")
    assert sorted(row["id"] for row in errors_rows(dataset)) == ["a" * 4096, "é"]
    assert verify_dataset(dataset).problems == []
    plan_retry(dataset, (), 1)
    work(dataset, failing=(), seed=2, worker="w")
    assert errors_rows(dataset) == []
    assert sorted(vectors(dataset)) == sorted(ids)


def test_items_of_an_unfinished_retry_are_not_planned_again() -> None:
    dataset = failed_dataset()
    assert plan_retry(dataset, (), 2) is not None
    assert plan_retry(dataset, (), 2) is None
    manifest = Manifest(dataset)
    work(dataset, failing=("a",), seed=0, worker="w")
    manifest.refresh()
    assert (manifest.vectors, manifest.errors - manifest.retried) == (4, 1)


@MAKERS
@pytest.mark.parametrize("operations", PLANNING)
def test_a_planner_of_retries_that_is_killed_anywhere_changes_no_row(
    make: Callable[[], Dataset], operations: int
) -> None:
    dataset = make()
    with contextlib.suppress(Crash):
        plan_retry(crashing_after(dataset, operations), (), 2)
    assert_once(dataset)
    retry(dataset, failing=("d",))
    assert_whole(dataset, errors=1)


@MAKERS
def test_at_every_moment_of_a_retry_every_id_is_there_once(make: Callable[[], Dataset]) -> None:
    dataset = make()
    moments = 0

    def look() -> None:
        nonlocal moments
        moments += 1
        assert_once(dataset)

    watched = replace(dataset, fs=WatchedFilesystem(dataset.fs, look))
    retry(watched, failing=("d",))
    assert moments > 40
    assert_whole(dataset, errors=1)


@MAKERS
@pytest.mark.parametrize("operations", WORKING)
def test_a_worker_of_a_retry_that_is_killed_anywhere_leaves_every_id_once(
    make: Callable[[], Dataset], operations: int
) -> None:
    dataset = make()
    plan_retry(dataset, (), 2)
    with contextlib.suppress(Crash):
        work(crashing_after(dataset, operations), failing=("a",), seed=1, worker="killed")
    assert_once(dataset)
    work(dataset, failing=("d",), seed=2, worker="next")  # the first worker's commit stays
    assert_once(dataset)
    result = verify_dataset(dataset)
    assert_whole(dataset, errors=result.errors)


@settings(max_examples=30)
@given(schedule=schedules, first=crashes, second=crashes)
def test_two_workers_of_a_retry_leave_every_id_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = failed_dataset()
    plan_retry(dataset, (), 1)  # its two shards rewrite the same table

    def writer(own: Dataset, number: int) -> None:
        work(own, failing=("a", "d") if number else ("c",), seed=number, worker=f"w{number}")

    run_interleaved(dataset, schedule, [first, second], writer)
    assert_once(dataset)
    work(dataset, failing=(), seed=2, worker="later")
    assert_once(dataset)
    assert verify_dataset(dataset).problems == []


def test_workers_of_a_retry_that_survive_leave_no_superseded_row() -> None:
    for after in range(30):
        dataset = failed_dataset()
        plan_retry(dataset, (), 1)  # its shards for a and c rewrite the same table

        def overtake(dataset: Dataset = dataset) -> None:
            work(dataset, failing=(), seed=1, worker="fast")

        slow = overtaken(dataset, after=after, overtake=overtake, crash_after=-1)
        work(slow, failing=("a",), seed=2, worker="slow")
        assert_whole(dataset, errors=verify_dataset(dataset).errors)


@settings(max_examples=30)
@given(schedule=schedules, first=crashes, second=crashes)
def test_two_retries_at_once_leave_every_id_once(
    schedule: list[int], first: int | None, second: int | None
) -> None:
    dataset = failed_dataset()

    def both(own: Dataset, number: int) -> None:
        retry(own, failing=("a",) if number else ("c",), worker=f"w{number}")

    run_interleaved(dataset, schedule, [first, second], both)
    assert_once(dataset)
    retry(dataset)
    retry(dataset)
    assert verify_dataset(dataset).problems == []
    assert rows_by_the_readers_rule(dataset) == sorted(vectors(dataset)) == list(IDS)


@pytest.mark.parametrize("after", range(14))
def test_a_first_writer_that_a_whole_retry_overtakes_leaves_a_whole_dataset(after: int) -> None:
    for crash_after in range(after, 24, 4):
        dataset = planned_dataset()

        def overtake(dataset: Dataset = dataset) -> None:
            work(dataset, failing=FAILED, seed=1, worker="fast")
            retry(dataset, failing=("c",))

        slow = overtaken(dataset, after=after, overtake=overtake, crash_after=crash_after)
        with contextlib.suppress(Crash):
            work(slow, failing=("b",), seed=0, worker="slow")
        work(dataset, failing=("c",), seed=2, worker="later")
        retry(dataset, failing=("c",))
        assert_once(dataset)
        assert verify_dataset(dataset).problems == []


@pytest.mark.parametrize("part", ["00001-0000000", "00002-0000000", "00003-0000000"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_deleted_part_is_made_again_without_the_items_of_a_retry(
    part: str, finished: bool
) -> None:
    dataset = failed_dataset()
    retry(dataset, failing=("a", "d"))
    retry(dataset, failing=("d",))
    if not finished:
        plan_retry(dataset, (), 2)
    dataset.fs.delete(f"parts/{part}.parquet")
    work(dataset, failing=("e",), seed=3, worker="w")
    assert_once(dataset)
    retry(dataset)
    assert_whole(dataset, errors=0)
    assert sorted(vectors(dataset)) == list(IDS)


def test_a_row_that_a_retry_lost_is_missing() -> None:
    dataset = single_items_dataset()
    retry(dataset, size=3)
    (job,) = jobs(dataset)
    dataset.fs.delete(f"parts/{job.id}-0000000.parquet")
    commit(dataset, f"{job.id}-0000000", embedded(texts("a", "c")), card=make_card(), worker="w")
    result = verify_dataset(dataset)
    assert result.missing == 1
    assert "'d'" in "\n".join(result.problems)


def test_a_row_that_no_newer_part_has_must_stand_in_its_errors_table() -> None:
    dataset = failed_dataset()
    plan_retry(dataset, (), 3)
    dataset.fs.delete("errors/00001-0000000.parquet")
    assert "errors tables differ" in "\n".join(verify_dataset(dataset).problems)


def test_a_retry_that_loses_its_number_plans_nothing() -> None:
    dataset = failed_dataset()
    slow = overtaken(
        dataset,
        after=5,
        overtake=lambda: plan_items(dataset, ListSource(texts("new")), 1),
        crash_after=-1,
    )
    with pytest.raises(DatasetError, match="meanwhile, nothing was planned"):
        plan_retry(slow, (), 3)
    assert plan_retry(dataset, (), 3) is not None


@MAKERS
def test_a_walk_over_failures_counts_each_item_once_while_a_retry_writes(
    make: Callable[[], Dataset],
) -> None:
    counts = set()
    for after in range(30):
        dataset = make()
        slow = overtaken(
            dataset,
            after=after,
            overtake=partial(retry, dataset, failing=("c",)),
            crash_after=-1,
        )
        counts.add(count_failures(slow)[EMPTY_FILE])
    assert counts == {len(FAILED), 1}  # before the retry, and after it


def test_errors_tables_of_parts_that_were_moved_away_are_ignored() -> None:
    dataset = single_items_dataset()
    dataset.fs.delete("parts/items-0000000001.parquet")
    assert error_classes(dataset) == {}
    assert plan_retry(dataset, (), 3) is None


@pytest.mark.parametrize(("column", "value"), [("part", "../../elsewhere"), ("attempt", -1)])
def test_a_changed_plan_of_a_retry_is_damaged(column: str, value: Any) -> None:
    dataset = failed_dataset()
    job = plan_retry(dataset, (), 3)
    assert job is not None
    change_plan(dataset, job, column, value)
    with pytest.raises(DatasetError, match=f"job {job.id}: its plan is damaged .*{value}.*restore"):
        read_shard_work(dataset, next(shards(job)))


def test_attempts_are_counted_up_to_the_most_that_a_footer_may_have() -> None:
    dataset = failed_dataset()
    job = plan_retry(dataset, (), 3)
    assert job is not None
    change_plan(dataset, job, "attempt", MAX_ATTEMPT)
    work(dataset, failing=FAILED, seed=0, worker="second")
    assert verify_dataset(dataset).ok
    assert {f.attempt for _, f in standing(dataset)} == {MAX_ATTEMPT}


def change_plan(dataset: Dataset, job: Job, column: str, value: Any) -> None:
    path = plan_file_path(job.id, job.token, 0)
    table = pq.read_table(pa.BufferReader(dataset.fs.read(path)))
    index = table.schema.get_field_index(column)
    field = table.schema.field(column)
    changed = table.set_column(index, field, pa.array([value] * len(table), field.type))
    data = parquet_bytes(changed, {})
    dataset.fs.replace(path, data)
    record = replace(job, sha256=(file_sha256(data),))
    dataset.fs.replace(job_path(job.id), record.to_json().encode())


def standing(dataset: Dataset) -> list[tuple[str, Failure]]:
    with contextlib.closing(RetriedIds(dataset)) as retried:
        _, failed = list_parts(dataset)
        return list(standing_failures(failed, partial(read_failures, dataset), retried))

import dataclasses

import pytest

from clipfleet.errors import DatasetError
from clipfleet.storage.commit.commit import commit, is_committed
from clipfleet.storage.commit.record import Commit, has_empty_record, record_path
from clipfleet.storage.commit.single_items import (
    KnownIds,
    catch_up,
    commit_single_items,
    single_items_part,
    single_items_part_number,
    without_known,
)
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_path
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.planner import plan_retry
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import WatchedFilesystem, embedded, images, make_card, memory_dataset, texts


def known_ids(dataset: Dataset) -> KnownIds:
    known = KnownIds(dataset)
    known.refresh()
    return known


def commit_single(dataset: Dataset, rows: Embedded) -> Commit | None:
    card = make_card(dataset.info.tower)
    return commit_single_items(dataset, KnownIds(dataset), rows, card=card, worker="w")


def test_an_item_in_a_retry_is_known_without_the_part_in_which_it_failed() -> None:
    dataset = memory_dataset(kind="stream")
    commit_single(dataset, embedded(texts("a", "b", "c"), failing=("b", "c")))
    assert plan_retry(dataset, (), 1) is not None
    dataset.fs.delete(part_path(single_items_part(1)))
    known = known_ids(dataset)
    assert [id_ for id_ in "abc" if id_ in known] == ["b", "c"]
    assert len(known) == 2


def test_parts_and_plans_are_read_once() -> None:
    dataset = memory_dataset(kind="stream")
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
    for id_ in "abc":
        commit_single(dataset, embedded(texts(id_)))
    assert refresh() == 2 + 3  # two lists and each part
    assert refresh() == 2
    commit_single(dataset, embedded(texts("new")))
    assert refresh() == 2 + 1


def test_the_ids_of_vectors_and_of_failures_are_known() -> None:
    dataset = memory_dataset("img", kind="stream")
    commit_single(dataset, embedded(images("a", "b"), failing=("b",)))
    known = known_ids(dataset)
    assert "a" in known
    assert "b" in known


def test_any_name_that_begins_with_items_is_a_part_of_single_items() -> None:
    dataset = memory_dataset(kind="stream")
    commit(dataset, "items-20261122-x", embedded(texts("a")), card=make_card(), worker="w")
    known = known_ids(dataset)
    assert "a" in known
    assert single_items_part_number("items-20261122-x") == 0
    commit_single(dataset, embedded(texts("b")))
    assert is_committed(dataset, single_items_part(1))


def test_each_commit_takes_the_next_number() -> None:
    dataset = memory_dataset(kind="stream")
    names = [commit_single(dataset, embedded(texts(id_))) for id_ in "abc"]
    assert [done.name for done in names if done] == [single_items_part(n) for n in (1, 2, 3)]
    assert dataset.fs.list("parts") == [f"{single_items_part(n)}.parquet" for n in (1, 2, 3)]


def test_an_item_that_is_sent_twice_is_written_once() -> None:
    dataset = memory_dataset(kind="stream")
    commit_single(dataset, embedded(texts("a", "b"), failing=("b",)))
    done = commit_single(dataset, embedded(texts("c", "a", "b", "c", "d"), failing=("b", "d")))
    assert done is not None
    assert (done.vectors, done.errors) == (1, 1)
    assert commit_single(dataset, embedded(texts("a", "b", "c", "d"))) is None
    assert dataset.fs.list("parts") == [f"{single_items_part(n)}.parquet" for n in (1, 2)]


def test_rows_keep_their_vectors_when_others_are_left_out() -> None:
    dataset = memory_dataset("img", kind="stream")
    commit_single(dataset, embedded(images("a", "c")))
    rows = embedded(images("a", "b", "c", "d"))
    rest = without_known(rows, known_ids(dataset))
    assert [item.id for item in rest.items] == ["b", "d"]
    assert (rest.vectors == rows.vectors[[1, 3]]).all()
    assert rest.sizes == [(640, 480)] * 2


def test_ids_of_a_part_that_was_moved_away_are_embedded_again() -> None:
    dataset = memory_dataset(kind="stream")
    known = KnownIds(dataset)
    for ids in ("ab", "cd"):
        commit_single_items(dataset, known, embedded(texts(*ids)), card=make_card(), worker="w")
    known.refresh()
    dataset.fs.delete(part_path(single_items_part(1)))
    known.refresh()
    assert "a" not in known
    assert all(id_ in known for id_ in ("c", "d"))
    rows = embedded(texts("a", "b", "c"))
    done = commit_single_items(dataset, known, rows, card=make_card(), worker="w")
    assert done is not None
    assert done.vectors == 2


def test_the_next_commit_empties_the_record_of_a_part_that_was_moved_away() -> None:
    dataset = memory_dataset(kind="stream")
    for id_ in "abc":
        commit_single(dataset, embedded(texts(id_, f"bad {id_}"), failing=(f"bad {id_}",)))
    for number in (1, 3):
        dataset.fs.delete(part_path(single_items_part(number)))
    problems = "\n".join(verify_dataset(dataset).problems)
    assert "2 manifest records have no part (queue their items again" in problems
    done = commit_single(dataset, embedded(texts("a", "c")))
    assert done is not None
    # The number is not taken again: another worker may know the ids of the part that had it.
    assert done.name == single_items_part(4)
    assert dataset.fs.list("parts") == [f"{single_items_part(n)}.parquet" for n in (2, 4)]
    empty = [has_empty_record(dataset, single_items_part(n)) for n in (1, 2, 3)]
    assert empty == [True, False, True]
    assert verify_dataset(dataset).ok
    assert dataset.fs.list("errors") == [f"{single_items_part(2)}.parquet"]


def test_a_part_whose_worker_died_before_its_record_is_finished_by_its_next_reader() -> None:
    dataset = memory_dataset(kind="stream")
    known = known_ids(dataset)
    done = commit_single(dataset, embedded(texts("a", "b"), failing=("b",)))
    assert done is not None
    dataset.fs.delete(record_path(done.name))
    assert catch_up(dataset, known) == set()
    assert is_committed(dataset, done.name)
    assert verify_dataset(dataset).ok


def test_a_damaged_part_of_single_items_is_not_to_be_deleted() -> None:
    dataset = memory_dataset(kind="stream")
    commit_single(dataset, embedded(texts("a")))
    dataset.fs.replace(part_path(single_items_part(1)), b"PAR1")
    with pytest.raises(DatasetError, match="moves it away and names its items: queue them again"):
        known_ids(dataset)
    (problem,) = verify_dataset(dataset).problems
    remedy = "`clipfleet repair` moves them away and names their items: queue them again"
    assert f"1 parts are damaged or foreign ({remedy})" in problem
    assert "delete" not in problem

"""Removing: an id without its vector, which no reader finds and nothing brings back unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.error_codes import EMPTY_FILE, GONE, REMOVED
from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.remove import Removal, remove_ids, remove_missing
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.failures import count_failures, error_classes
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import Refresh, move_source
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from tests.datasets import embedded, make_card, memory_dataset, texts
from tests.interleavings.test_retries import vectors
from tests.unit.storage.test_refresh import (
    assert_whole,
    dataset_of,
    embed,
    make_pictures,
    newer,
    refresh,
)


def remove(dataset: Dataset, ids: str, *, dry_run: bool = False) -> Removal:
    return remove_ids(dataset, list(ids), shard_size=2, dry_run=dry_run)


def missing(dataset: Dataset, *, dry_run: bool = False) -> Removal:
    return remove_missing(dataset, shard_size=2, dry_run=dry_run)


def test_a_removed_id_has_no_vector_and_one_error_row_that_says_so() -> None:
    dataset = dataset_of("abcde", failing="d")
    removal = remove(dataset, "aced")
    assert (removal.job, removal.removed, removal.removed_before) == ("00002", 4, 0)
    assert vectors(dataset) == ["b"]
    assert count_failures(dataset) == {REMOVED: 4}
    first = error_classes(dataset)[REMOVED].first
    assert first.message == f"removed at {jobs(dataset)[1].created_at}: its id was named"
    assert_whole(dataset, vectors=1, errors=4)


def test_removing_again_changes_nothing_and_counts() -> None:
    dataset = dataset_of("abc")
    remove(dataset, "ab")
    again = remove(dataset, "abc")
    assert (again.job, again.removed, again.removed_before) == ("00003", 1, 2)
    assert remove(dataset, "a").job is None
    assert_whole(dataset, vectors=0, errors=3)


def test_an_unknown_id_refuses_the_whole_removal() -> None:
    dataset = dataset_of("ab")
    with pytest.raises(UsageError, match=r"does not have 2 of the ids: 'x', 'y'\. Correct"):
        remove(dataset, "ayx")
    assert len(jobs(dataset)) == 1
    assert vectors(dataset) == ["a", "b"]


def test_an_id_whose_shard_is_not_done_waits() -> None:
    dataset = memory_dataset()
    plan_items(dataset, ListSource(texts("a", "b", "c")), 2)
    embed(dataset, shards=1)
    removal = remove(dataset, "bc")
    assert (removal.removed, removal.waiting, removal.first_waiting) == (1, 1, ["c"])
    embed(dataset)
    assert remove(dataset, "bc").removed == 1
    assert_whole(dataset, vectors=1, errors=2)


def test_an_id_whose_newer_content_is_being_embedded_waits() -> None:
    dataset = dataset_of("ab")
    refresh(dataset, newer("a"), "replace")
    assert remove(dataset, "a").first_waiting == ["a"]
    embed(dataset)
    assert remove(dataset, "a").removed == 1
    assert_whole(dataset, vectors=1, errors=1)


def test_a_dry_run_counts_and_changes_nothing() -> None:
    dataset = dataset_of("ab")
    removal = remove(dataset, "a", dry_run=True)
    assert (removal.job, removal.removed) == (None, 1)
    assert removal.lines() == ["/memory: 1 ids would be removed"]
    assert vectors(dataset) == ["a", "b"]
    assert len(jobs(dataset)) == 1


def test_the_same_source_and_a_plain_retry_do_not_bring_a_removed_id_back() -> None:
    dataset = dataset_of("abc", failing="c")
    remove(dataset, "a")
    assert plan_items(dataset, ListSource(texts("a", "b", "c")), 2) is None
    assert refresh(dataset, texts("a", "b", "c"), "replace") == Refresh()
    retried = plan_retry(dataset, (), 2)
    assert retried is not None
    assert retried.items == 1
    assert embed(dataset) == ["text of c"]
    assert_whole(dataset, vectors=2, errors=1)


def test_a_retry_that_names_the_class_brings_removed_ids_back() -> None:
    dataset = dataset_of("abc")
    remove(dataset, "ab")
    assert plan_retry(dataset, [REMOVED], 2) is not None
    assert embed(dataset) == ["text of a", "text of b"]
    assert_whole(dataset, vectors=3, errors=0)
    assert remove(dataset, "a").removed == 1
    assert_whole(dataset, vectors=2, errors=1)


def test_newer_content_brings_a_removed_id_back() -> None:
    dataset = dataset_of("ab")
    remove(dataset, "a")
    refresh(dataset, newer("a"))
    assert embed(dataset) == ["newer a"]
    assert_whole(dataset, vectors=2, errors=0)


def test_a_part_that_is_deleted_after_a_removal_is_made_again_without_the_id() -> None:
    dataset = dataset_of("ab")
    remove(dataset, "a")
    dataset.fs.delete("parts/00001-0000000.parquet")
    assert embed(dataset) == ["text of b"]
    assert_whole(dataset, vectors=1, errors=1)


def test_a_worker_that_gets_the_shard_of_a_removal_embeds_nothing() -> None:
    dataset = dataset_of("ab")
    remove(dataset, "a")
    dataset.fs.delete("parts/00002-0000000.parquet")
    assert [shard.name for shard in missing_shards(dataset)] == ["00002-0000000"]
    assert embed(dataset) == []
    assert count_failures(dataset) == {REMOVED: 1}
    assert_whole(dataset, vectors=1, errors=1)


def test_an_item_of_a_stream_is_removed_and_its_message_does_not_bring_it_back() -> None:
    dataset = memory_dataset(kind="stream")
    known = KnownIds(dataset)
    rows = embedded(texts("a", "b"), failing="b")
    commit_single_items(dataset, known, rows, card=make_card(), worker="w")
    assert remove(dataset, "ab").removed == 2
    check_kind(dataset, "stream")
    again = KnownIds(dataset)
    assert commit_single_items(dataset, again, rows, card=make_card(), worker="w") is None
    assert vectors(dataset) == []
    assert count_failures(dataset) == {REMOVED: 2}


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Dataset, Path]:
    """Four pictures in two shards, all embedded but "c.png", which failed."""
    dataset = memory_dataset("img")
    folder = tmp_path / "photos"
    plan_items(dataset, make_pictures(folder, "a.png", "b b.png", "c.png", "d.png"), 2)
    embed(dataset, failing=["c.png"])
    return dataset, folder


def test_ids_whose_files_were_deleted_are_removed(pictures: tuple[Dataset, Path]) -> None:
    dataset, folder = pictures
    assert missing(dataset).lines() == ["/memory: removed nothing"]
    for name in ("b b.png", "c.png"):
        (folder / name).unlink()
    assert missing(dataset, dry_run=True).removed == 2
    assert missing(dataset).removed == 2
    assert sorted(vectors(dataset)) == ["a.png", "d.png"]
    assert count_failures(dataset) == {GONE: 2}
    assert missing(dataset).job is None
    assert_whole(dataset, vectors=2, errors=2)


def test_files_are_looked_for_where_their_folder_is_now(pictures: tuple[Dataset, Path]) -> None:
    dataset, folder = pictures
    moved = folder.rename(folder.parent / "moved")
    move_source(dataset, FolderSource(str(moved)), str(folder))
    (moved / "a.png").unlink()
    assert missing(dataset).removed == 1
    assert plan_retry(dataset, [GONE], 2) is not None
    assert embed(dataset) == [f"{moved}/a.png"]


def test_a_disk_that_is_not_mounted_removes_nothing(pictures: tuple[Dataset, Path]) -> None:
    dataset, folder = pictures
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(UsageError, match="no file of dataset /memory exists here: mount"):
        missing(dataset)
    assert count_failures(dataset) == {EMPTY_FILE: 1}


def test_a_file_that_cannot_be_looked_for_is_named(pictures: tuple[Dataset, Path]) -> None:
    dataset, folder = pictures
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.symlink_to(folder)  # a loop
    with pytest.raises(UsageError, match=r"a\.png cannot be looked at \(Too many lev"):
        missing(dataset)


def test_urls_are_not_looked_for_and_texts_have_no_files() -> None:
    dataset = memory_dataset("img")
    plan_items(dataset, ListSource([Item(id="u", uri="https://example.org/u.png")]), 2)
    embed(dataset)
    assert missing(dataset).unchecked == 1
    assert vectors(dataset) == ["u"]
    with pytest.raises(UsageError, match="is of texts, which are no files: name the ids"):
        missing(memory_dataset())

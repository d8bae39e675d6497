"""Pictures whose files were overwritten, deleted or mended since they were embedded."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from clipfleet.error_codes import DECODE_FAILED, GONE, MISSING, REMOVED
from clipfleet.items import Fingerprint, Item
from clipfleet.settings.datasets import OnConflict
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.remove import remove_ids, remove_missing
from clipfleet.storage.filesystem.members import TarMember
from clipfleet.storage.format.dataset import FILE_COLUMNS, Dataset
from clipfleet.storage.format.dataset_info import Column
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import Refresh, move_source, refresh_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from tests.datasets import embedded, make_card, memory_dataset
from tests.unit.storage.test_refresh import assert_whole

NAMES = ("a.png", "b.png", "c.png")
HASHES: tuple[Column, ...] = (*FILE_COLUMNS, "content_hash")
LONG_AGO_NS = 1_000_000_000 * 10**9  # the year 2001
LATER_NS = 4_000_000_000 * 10**9  # the year 2096


class Photos:
    """A folder of pictures and its dataset, and workers that read files and embed nothing."""

    def __init__(self, folder: Path, columns: tuple[Column, ...]) -> None:
        self.folder = folder
        folder.mkdir()
        for name in NAMES:
            self.write(name, b"first")
        dataset = memory_dataset("img")
        self.dataset: Dataset = replace(dataset, info=replace(dataset.info, columns=columns))
        plan_items(self.dataset, FolderSource(str(folder)), 2)

    def write(self, name: str, data: bytes, mtime_ns: int = LONG_AGO_NS) -> None:
        path = self.folder / name
        path.write_bytes(data)
        os.utime(path, ns=(mtime_ns, mtime_ns))

    def embed(self, *, failing: Collection[str] = (), error: str = DECODE_FAILED) -> list[str]:
        found: list[str] = []
        for shard in list(missing_shards(self.dataset)):
            work = read_shard_work(self.dataset, shard)
            found += [item.id for item in work.items]
            rows = embedded(work.items, failing=failing)
            if self.dataset.info.columns:
                rows = replace(rows, fingerprints=[_fingerprint(item) for item in rows.items])
            failures = [replace(failure, error=error) for failure in rows.failures]
            rows = work.finish(replace(rows, failures=failures))
            commit(self.dataset, shard.name, rows, card=make_card("img"), worker="w")
        return found

    def refresh(self, rule: OnConflict = "keep", *, by_hash: bool = False) -> Refresh:
        source = FolderSource(str(self.folder))
        return refresh_items(self.dataset, source, 2, on_conflict=rule, by_hash=by_hash)


def _fingerprint(item: Item) -> Fingerprint:
    path = Path(str(item.uri))
    status = path.stat()
    digest = sha256(path.read_bytes()).hexdigest()
    return Fingerprint(status.st_size, status.st_mtime_ns, digest)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path / "photos", FILE_COLUMNS)


@pytest.fixture
def hashed(tmp_path: Path) -> Photos:
    return Photos(tmp_path / "hashed", HASHES)


@pytest.mark.parametrize("rule", ["keep", "replace", "error"])
def test_a_picture_of_another_size_is_embedded_in_place_of_its_vector(
    photos: Photos, rule: OnConflict
) -> None:
    photos.embed()
    assert photos.refresh(rule) == Refresh()
    photos.write("b.png", b"another")
    found = photos.refresh(rule)
    assert found.newer is not None
    assert (found.newer.items, found.overwritten, found.conflicts) == (1, 1, 0)
    assert photos.embed() == ["b.png"]
    assert_whole(photos.dataset, vectors=3, errors=0)
    assert photos.refresh(rule) == Refresh()


@pytest.mark.parametrize("mtime_ns", [LONG_AGO_NS - 1, LATER_NS])
def test_a_picture_of_another_time_is_embedded_in_place_of_its_vector(
    photos: Photos, mtime_ns: int
) -> None:
    photos.embed()
    photos.write("a.png", b"other", mtime_ns)
    assert photos.refresh().overwritten == 1
    assert photos.embed() == ["a.png"]
    assert photos.refresh() == Refresh()


def test_a_source_that_is_submitted_without_a_refresh_looks_at_no_file(photos: Photos) -> None:
    photos.embed()
    photos.write("a.png", b"another")
    assert plan_items(photos.dataset, FolderSource(str(photos.folder)), 2) is None


def test_a_touched_picture_with_the_same_hash_is_not_embedded_again(hashed: Photos) -> None:
    hashed.embed()
    hashed.write("a.png", b"first", LATER_NS)
    hashed.write("b.png", b"other", LATER_NS)
    assert hashed.refresh().overwritten == 1
    assert hashed.embed() == ["b.png"]


def test_other_bytes_of_the_same_size_and_time_are_found_by_hash(hashed: Photos) -> None:
    hashed.embed()
    hashed.write("c.png", b"other")
    assert hashed.refresh() == Refresh()
    assert hashed.refresh(by_hash=True).overwritten == 1
    assert hashed.embed() == ["c.png"]
    assert hashed.refresh(by_hash=True) == Refresh()


def test_a_dataset_without_the_columns_finds_files_that_changed_after_the_plan(
    tmp_path: Path,
) -> None:
    photos = Photos(tmp_path / "photos", ())
    photos.embed()
    photos.write("a.png", b"another")
    assert photos.refresh() == Refresh()
    photos.write("a.png", b"another", LATER_NS)
    assert photos.refresh().overwritten == 1


def test_a_broken_picture_that_was_mended_is_embedded(photos: Photos) -> None:
    photos.embed(failing=["a.png", "c.png"])
    photos.write("a.png", b"mended", LATER_NS)
    assert photos.refresh().overwritten == 1
    assert photos.embed() == ["a.png"]
    assert_whole(photos.dataset, vectors=2, errors=1)


def test_a_picture_that_was_missing_is_embedded_once_it_is_there(photos: Photos) -> None:
    (photos.folder / "b.png").unlink()
    photos.embed(failing=["b.png"], error=MISSING)
    assert photos.refresh() == Refresh()
    photos.write("b.png", b"back")
    assert photos.refresh().overwritten == 1
    assert photos.embed() == ["b.png"]


def test_a_picture_that_is_gone_is_counted_and_comes_back_with_its_file(photos: Photos) -> None:
    photos.embed()
    (photos.folder / "b.png").unlink()
    assert photos.refresh() == Refresh(gone=1)
    assert remove_missing(photos.dataset, shard_size=2).removed == 1
    assert count_failures(photos.dataset) == {GONE: 1}
    assert photos.refresh() == Refresh()
    photos.write("b.png", b"first")
    assert photos.refresh().overwritten == 1
    assert photos.embed() == ["b.png"]
    assert_whole(photos.dataset, vectors=3, errors=0)


def test_a_removed_picture_stays_removed_whatever_happens_to_its_file(photos: Photos) -> None:
    photos.embed()
    remove_ids(photos.dataset, ["b.png"], shard_size=2)
    photos.write("b.png", b"another", LATER_NS)
    assert photos.refresh("replace") == Refresh()
    assert count_failures(photos.dataset) == {REMOVED: 1}
    assert plan_retry(photos.dataset, [REMOVED], 2) is not None
    assert photos.embed() == ["b.png"]


def test_an_overwritten_picture_whose_newer_bytes_fail_has_their_error(photos: Photos) -> None:
    photos.embed()
    photos.write("b.png", b"broken now")
    photos.refresh()
    photos.embed(failing=["b.png"])
    assert_whole(photos.dataset, vectors=2, errors=1)
    assert photos.refresh() == Refresh()


def test_files_of_a_moved_folder_are_looked_at_where_they_are_now(photos: Photos) -> None:
    photos.embed()
    old, photos.folder = photos.folder, photos.folder.rename(photos.folder.parent / "moved")
    move_source(photos.dataset, FolderSource(str(photos.folder)), str(old))
    assert photos.refresh() == Refresh()
    photos.write("b.png", b"another")
    assert photos.refresh().overwritten == 1


def test_a_member_is_gone_with_its_archive_whose_time_says_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for path in paths:
        path.touch()
    items = [
        Item(id=path.name, uri=TarMember(path=str(path), offset=512, size=9, header=1).uri)
        for path in paths
    ]
    dataset = memory_dataset("img")
    dataset = replace(dataset, info=replace(dataset.info, columns=FILE_COLUMNS))
    plan_items(dataset, ListSource(items), 2)
    [shard] = missing_shards(dataset)
    rows = replace(embedded(items), fingerprints=[Fingerprint(9, 0, "")] * 2)
    commit(dataset, shard.name, rows, card=make_card("img"), worker="w")

    def refreshed() -> Refresh:
        return refresh_items(dataset, ListSource(items), 2, on_conflict="keep")

    os.utime(paths[0], ns=(LATER_NS, LATER_NS))
    assert refreshed() == Refresh()
    paths[1].unlink()
    assert refreshed().gone == 1
    assert remove_missing(dataset, shard_size=2).removed == 1
    assert count_failures(dataset) == {GONE: 1}
    paths[1].touch()
    assert refreshed().overwritten == 1

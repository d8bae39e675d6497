"""A source that is planned again: ids that come with other content, and a moved folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from clipfleet.error_codes import EMPTY_FILE
from clipfleet.errors import DatasetError, DuplicateIdError, UsageError
from clipfleet.items import Item
from clipfleet.settings.datasets import OnConflict
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import Manifest, missing_shards
from clipfleet.storage.filesystem.members import TarMember, TgzMember
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import item_value
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.jobs import jobs
from clipfleet.storage.plan.moves import MOVED_PATH, read_moves
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import Refresh, move_source, refresh_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import embedded, images, make_card, memory_dataset, texts
from tests.interleavings.test_retries import errors_rows, rows_by_the_readers_rule, vectors

RULES = pytest.mark.parametrize("rule", ["keep", "replace", "error"])


def newer(*ids: str, text: str = "newer") -> list[Item]:
    return [Item(id=id_, text=f"{text} {id_}") for id_ in ids]


def refresh(dataset: Dataset, items: Sequence[Item], rule: OnConflict = "keep") -> Refresh:
    return refresh_items(dataset, ListSource(items), 3, on_conflict=rule)


def embed(dataset: Dataset, *, failing: Collection[str] = (), shards: int = 99) -> list[str]:
    """Embed the first missing shards; return the texts or uris."""
    found: list[str] = []
    for shard in list(missing_shards(dataset))[:shards]:
        work = read_shard_work(dataset, shard)
        found += [item_value(item) for item in work.items]
        rows = work.finish(embedded(work.items, failing=failing))
        commit(dataset, shard.name, rows, card=make_card(dataset.info.tower), worker="w")
    return found


def dataset_of(ids: str, *, failing: str = "") -> Dataset:
    dataset = memory_dataset()
    plan_items(dataset, ListSource(texts(*ids)), 2)
    embed(dataset, failing=failing)
    return dataset


def assert_whole(dataset: Dataset, *, vectors: int, errors: int) -> None:
    result = verify_dataset(dataset)
    assert result.problems == []
    assert (result.planned, result.vectors, result.errors) == (vectors + errors, vectors, errors)
    manifest = Manifest(dataset)
    manifest.refresh()
    assert (manifest.vectors, manifest.errors - manifest.retried) == (vectors, errors)
    assert len(rows_by_the_readers_rule(dataset)) == vectors + errors


@RULES
def test_new_ids_and_failed_ids_with_newer_content_are_planned(rule: OnConflict) -> None:
    dataset = dataset_of("abcd", failing="bd")
    found = refresh(dataset, [*texts("a"), *newer("b"), *texts("c", "d", "e", "f")], rule)
    assert found.job is not None
    assert found.newer is not None
    assert (found.job.items, found.newer.items, found.newer.retry) == (2, 1, True)
    assert (found.conflicts, found.waiting) == (0, 0)
    assert embed(dataset) == ["text of e", "text of f", "newer b"]
    assert_whole(dataset, vectors=5, errors=1)
    assert refresh(dataset, [*texts("a"), *newer("b"), *texts("c", "d", "e", "f")], rule) == (
        Refresh()
    )


def test_a_vector_is_kept_and_counted_as_a_conflict() -> None:
    dataset = dataset_of("abcd", failing="d")
    found = refresh(dataset, [*newer("a", "b", "d"), *texts("c")])
    assert (found.job, found.conflicts, found.first_conflicts) == (None, 2, ["a", "b"])
    assert found.newer is not None
    assert embed(dataset) == ["newer d"]
    assert_whole(dataset, vectors=4, errors=0)


def test_newer_content_replaces_vectors_of_several_parts() -> None:
    dataset = dataset_of("abcdef", failing="d")
    for text in ("second", "third"):
        found = refresh(dataset, [*newer("a", "c", "e", text=text), *texts("b")], "replace")
        assert found.newer is not None
        assert found.newer.items == 3
        assert embed(dataset) == [f"{text} {id_}" for id_ in "ace"]
        assert_whole(dataset, vectors=5, errors=1)
    assert sorted(vectors(dataset)) == list("abcef")
    assert refresh(dataset, newer("a", text="second"), "replace").newer is not None  # and back
    embed(dataset, failing="a")
    assert_whole(dataset, vectors=4, errors=2)
    assert {row["id"]: row["attempt"] for row in errors_rows(dataset)} == {"a": 4, "d": 1}


def test_a_part_that_is_deleted_after_a_replacement_is_made_again_without_the_vector() -> None:
    dataset = dataset_of("ab")
    refresh(dataset, newer("a"), "replace")
    embed(dataset)
    dataset.fs.delete("parts/00001-0000000.parquet")
    assert embed(dataset) == ["text of b"]
    assert_whole(dataset, vectors=2, errors=0)


def test_the_rule_error_names_the_ids_and_plans_nothing() -> None:
    dataset = dataset_of("abcd", failing="d")
    with pytest.raises(DuplicateIdError, match=r"2 ids of .* another text: 'a', 'b'\. .*replace"):
        refresh(dataset, [*newer("a", "b", "d"), *texts("new")], "error")
    assert len(jobs(dataset)) == 1
    assert [path for path in dataset.fs.list("plan") if path.startswith("00002")] == []


@RULES
def test_ids_in_shards_that_are_not_done_wait(rule: OnConflict) -> None:
    dataset = memory_dataset()
    plan_items(dataset, ListSource(texts("a", "b")), 2)
    found = refresh(dataset, newer("a"), rule)
    assert (found.newer, found.conflicts, found.waiting) == (None, 0, 1)
    assert embed(dataset, failing="a") == ["text of a", "text of b"]
    assert refresh(dataset, newer("a"), rule).newer is not None
    assert embed(dataset) == ["newer a"]
    assert_whole(dataset, vectors=2, errors=0)


def test_without_a_refresh_a_changed_source_is_refused_with_the_way_out() -> None:
    dataset = dataset_of("ab")
    with pytest.raises(DuplicateIdError, match=r"'a' \(planned in job 00001\).*--refresh"):
        plan_items(dataset, ListSource(newer("a")), 2)
    refresh(dataset, newer("a"), "replace")
    assert plan_items(dataset, ListSource([*newer("a"), *texts("b")]), 2) is None
    with pytest.raises(DuplicateIdError, match=r"'a' \(planned in job 00002\)"):
        plan_items(dataset, ListSource(texts("a")), 2)


def test_a_source_that_gives_a_changed_id_twice_is_refused() -> None:
    dataset = dataset_of("ab")
    with pytest.raises(DuplicateIdError, match="'a' at item 1 and at item 3"):
        refresh(dataset, [*newer("a"), *texts("b"), *newer("a", text="other")], "replace")


def test_a_job_that_is_planned_during_a_refresh_stops_it() -> None:
    dataset = dataset_of("ab", failing="a")

    class Overtaken(ListSource):
        def __iter__(self) -> Iterator[Item]:
            plan_retry(dataset, (), 1)
            yield from newer("a")

    with pytest.raises(DatasetError, match="run again"):
        refresh_items(dataset, Overtaken([]), 2, on_conflict="keep")
    assert [job.source for job in jobs(dataset)][1:] == ["retry of all errors"]


def make_pictures(folder: Path, *names: str) -> FolderSource:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return FolderSource(str(folder))


NAMES = ("a.png", "b c.png", "é.png", b"\xff.png".decode("utf-8", "surrogateescape"))


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Dataset, Path, Path]:
    """Four pictures in two shards, of which one is done and has a failure; they were moved."""
    dataset = memory_dataset("img")
    old, new = tmp_path / "old photos", tmp_path / "old photos, moved"
    plan_items(dataset, make_pictures(old, *NAMES), 2)
    embed(dataset, failing=["a.png"], shards=1)
    old.rename(new)
    return dataset, old, new


def test_a_moved_folder_is_not_embedded_again_and_open_shards_find_it(
    moved: tuple[Dataset, Path, Path],
) -> None:
    dataset, old, new = moved
    source = open_source(str(new), tower="img")
    with pytest.raises(DuplicateIdError, match="--moved-from"):
        plan_items(dataset, source, 2)
    move_source(dataset, source, str(old))
    move_source(dataset, source, str(old))
    assert len(read_moves(dataset).moves) == 1
    assert refresh_items(dataset, source, 2, on_conflict="error") == Refresh()
    uris = [item.uri for item in source]
    assert embed(dataset) == uris[2:]
    assert count_failures(dataset) == {EMPTY_FILE: 1}
    assert plan_retry(dataset, (), 2) is not None
    assert embed(dataset) == uris[:1]
    assert verify_dataset(dataset).problems == []


def test_members_of_moved_archives_are_found_at_their_present_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old #1", tmp_path / "new?"

    def members(folder: Path) -> list[Item]:
        path = f"{folder}/a.tar"
        kinds = (TarMember, TgzMember)
        found = [kind(path=path, offset=512, size=1, header=5).uri for kind in kinds]
        return [Item(id=uri[:3], uri=uri) for uri in found]

    dataset = memory_dataset("img")
    plan_items(dataset, ListSource(members(old)), 2)
    move_source(dataset, FolderSource(str(new)), str(old))
    assert embed(dataset) == [item.uri for item in members(new)]
    assert plan_items(dataset, ListSource(members(new)), 2) is None


def test_a_folder_may_be_moved_twice_and_into_itself(tmp_path: Path) -> None:
    dataset = memory_dataset("img")
    places = [tmp_path / "p", tmp_path / "q", tmp_path / "q" / "p"]
    plan_items(dataset, make_pictures(places[0], "a.png"), 2)
    for number, place in enumerate(places[1:], 1):
        source = make_pictures(place, "a.png", f"b{number}.png")
        move_source(dataset, source, str(places[number - 1]))
        job = plan_items(dataset, source, 2)
        assert job is not None
        assert job.items == 1
    found = embed(dataset)
    assert found == [
        f"{tmp_path}/q/p/a.png",
        f"{tmp_path}/q/p/b1.png",
        f"{tmp_path}/q/p/b2.png",
    ]


def test_a_wrong_old_folder_is_refused(moved: tuple[Dataset, Path, Path]) -> None:
    dataset, old, new = moved
    source = FolderSource(str(new))
    with pytest.raises(UsageError, match=f"no item of dataset /memory is below {old}x: name"):
        move_source(dataset, source, f"{old}x")
    with pytest.raises(UsageError, match="has no folder of images"):
        move_source(dataset, ListSource(images("a")), str(old))
    with pytest.raises(UsageError, match="has no folder of images"):
        move_source(memory_dataset("txt"), source, str(old))
    assert not dataset.fs.exists(MOVED_PATH)


def test_a_damaged_list_of_moves_is_named(moved: tuple[Dataset, Path, Path]) -> None:
    dataset, _, _ = moved
    dataset.fs.replace(MOVED_PATH, b'[{"old": "/a", "new": 5, "last_job": "00001"}]')
    with pytest.raises(DatasetError, match=r"moved\.json is damaged .*--moved-from again"):
        read_moves(dataset)

"""A dataset is compacted: killed at any operation, beside readers, workers and retries."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest

from clipfleet.errors import DatasetError, UsageError
from clipfleet.reader import Dataset as Reader
from clipfleet.retrieval.build_index import build_index
from clipfleet.storage.commit.commit import commit, is_committed
from clipfleet.storage.commit.damaged import move_away
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.compact import compact as compact_module
from clipfleet.storage.compact import swap
from clipfleet.storage.compact.compact import Compaction, compact_dataset
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.dataset_info import Kind
from clipfleet.storage.packs.packed_parts import PackedParts
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.refresh import refresh_items
from clipfleet.storage.sources.base import ListSource
from clipfleet.storage.verify.verify import verify_dataset
from tests.datasets import Crash, embedded, make_card, memory_dataset, numbered_texts, texts
from tests.interleavings.test_interleavings import work

ITEMS = 20
OPERATIONS = ("link", "unlink", "rename", "replace", "rmdir", "mkdir")  # of os, that change a disk


def new_dataset(folder: Path, kind: Kind = "planned") -> Dataset:
    return Dataset.create(str(folder), make_card(), kind=kind, embedding_dtype="float16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of seven shards, of which the first two have failures."""
    folder = tmp_path_factory.mktemp("made") / "dataset"
    dataset = new_dataset(folder)
    assert plan_items(dataset, ListSource(numbered_texts(ITEMS)), 3) is not None
    work(dataset, failing=("t1", "t2", "t3"), seed=0, worker="w")
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Dataset:
    return Dataset.open(str(shutil.copytree(made, tmp_path / "dataset")))


def files(dataset: Dataset) -> list[str]:
    return sorted(name for name in os.listdir(f"{dataset.root}/parts") if name[0] != ".")


def plain_ids(dataset: Dataset) -> list[str]:
    """Return the ids that a plain reader of Parquet finds."""
    ids: list[str] = pq.read_table(f"{dataset.root}/parts")["id"].to_pylist()
    return ids


def assert_whole(dataset: Dataset, *, vectors: int, errors: int = 0) -> None:
    again = Dataset.open(dataset.root)
    for quick in (False, True):
        result = verify_dataset(again, quick=quick)
        assert result.problems == []
    assert (result.vectors, result.errors) == (vectors, errors)
    ids = plain_ids(again)
    assert len(set(ids)) == len(ids) == vectors
    assert sorted(ids) == sorted(Reader(again.root).ids)


@contextlib.contextmanager
def before_each_operation(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], None]
) -> Iterator[None]:
    """Call before each change of the disk, and before the two folders are exchanged."""

    def watched(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            call()
            return operation(*args, **options)

        return run

    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, watched(getattr(os, name)))
        patch.setattr(swap, "_exchange", watched(swap._exchange))
        yield


def test_a_compacted_dataset_has_the_same_rows_in_the_same_order_in_fewer_files(
    dataset: Dataset,
) -> None:
    rows = pq.read_table(f"{dataset.root}/parts")
    parts = {name: dataset.fs.read(f"parts/{name}.parquet") for name in part_names(dataset.fs)}
    done = compact_dataset(dataset)
    assert done == Compaction(
        dataset=dataset.root, files_before=7, files_after=1, packed=7, changed_meanwhile=0
    )
    assert files(dataset) == ["00001-0000000_packed.parquet"]
    assert pq.read_table(f"{dataset.root}/parts").equals(rows)
    assert parts == {n: dataset.fs.read(f"parts/{n}.parquet") for n in part_names(dataset.fs)}
    assert_whole(dataset, vectors=17, errors=3)
    assert compact_dataset(dataset).packed == 0


def test_packs_have_the_set_size_and_a_later_call_fills_the_last(dataset: Dataset) -> None:
    size = len(dataset.fs.read("parts/00001-0000002.parquet"))
    compact_dataset(dataset, file_bytes=3 * size + size // 2)
    packs = [name for name in files(dataset) if "_packed" in name]
    assert len(packs) == 2  # of three parts each, and one part is left over
    assert_whole(dataset, vectors=17, errors=3)
    compact_dataset(dataset)
    assert files(dataset) == ["00001-0000000_packed.parquet"]
    assert_whole(dataset, vectors=17, errors=3)


def row_groups_with(dataset: Dataset, id_: str) -> int:
    """Return how many row groups a reader of Parquet opens for an id, by their statistics."""
    rows = pa_dataset.dataset(f"{dataset.root}/parts", format="parquet")
    wanted = pa_dataset.field("id") == id_
    assert rows.to_table(filter=wanted)["id"].to_pylist() == [id_]
    groups = (fragment.split_by_row_group(wanted) for fragment in rows.get_fragments())
    return sum(map(len, groups))


def members(dataset: Dataset) -> list[list[str]]:
    """Return the parts of each pack in their order."""
    assert isinstance(dataset.fs, PackedParts)
    return [[member.name for member in pack.members or ()] for pack in dataset.fs.packs()]


@pytest.fixture
def by_ranges(tmp_path: Path) -> Dataset:
    """A dataset whose six parts have ranges of ids, in another order than their names."""
    dataset = new_dataset(tmp_path / "ranges")
    ids = [f"t{n:02}" for first in (12, 3, 15, 0, 9, 6) for n in range(first, first + 3)]
    assert plan_items(dataset, ListSource(texts(*ids)), 3) is not None
    work(dataset, failing=(), seed=0, worker="w")
    return dataset


def test_sorted_packs_have_their_parts_in_the_order_of_ids(by_ranges: Dataset) -> None:
    parts = {n: by_ranges.fs.read(f"parts/{n}.parquet") for n in part_names(by_ranges.fs)}
    compact_dataset(by_ranges)
    assert members(by_ranges) == [[f"00001-000000{n}" for n in range(6)]]
    size = len(parts["00001-0000000"])
    done = compact_dataset(by_ranges, file_bytes=3 * size + size // 2, sort_by_id=True)
    assert (done.files_before, done.files_after, done.packed, done.overlapping) == (1, 2, 6, 0)
    assert done.lines() == ["1 files are 2 now: 6 parts packed"]
    in_order = [f"00001-000000{n}" for n in (3, 1, 5, 4, 0, 2)]
    assert members(by_ranges) == [in_order[3:], in_order[:3]]  # the packs' names: by their parts'
    assert parts == {n: by_ranges.fs.read(f"parts/{n}.parquet") for n in part_names(by_ranges.fs)}
    assert_whole(by_ranges, vectors=18)
    assert {row_groups_with(by_ranges, f"t{n:02}") for n in range(18)} == {1}
    again = compact_dataset(by_ranges, file_bytes=3 * size + size // 2, sort_by_id=True)
    assert (again.packed, again.files_after) == (0, 2)


def test_a_sort_counts_the_parts_that_overlap_in_ids(dataset: Dataset) -> None:
    plan_items(dataset, ListSource(texts("t10a", "t99")), 3)
    work(dataset, failing=("t10a", "t99"), seed=0, worker="w")  # a part without rows
    done = compact_dataset(dataset, sort_by_id=True)
    # As strings, all ids but t0 are between those of the part with t9, t10 and t11.
    assert done.overlapping == 6
    assert "6 parts overlap in their ids; to sort rows: `clipfleet export " in done.lines()[1]
    assert row_groups_with(dataset, "t12") == 2
    assert_whole(dataset, vectors=17, errors=5)


def test_a_compaction_that_is_killed_anywhere_leaves_a_whole_dataset(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operations in count():
        dataset = Dataset.open(str(shutil.copytree(made, tmp_path / str(operations))))
        left = iter(range(operations))

        def crash(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Crash

        with before_each_operation(monkeypatch, crash):
            try:
                compact_dataset(dataset, file_bytes=20_000)
                killed = False
            except Crash:
                killed = True
        assert_whole(dataset, vectors=17, errors=3)
        compact_dataset(Dataset.open(dataset.root), file_bytes=20_000)
        assert_whole(dataset, vectors=17, errors=3)
        assert not os.path.exists(f"{dataset.root}/_compact")
        assert not os.path.exists(f"{dataset.root}/parts/.compacting")
        if not killed:
            break
    assert operations > 20


def test_readers_and_workers_at_any_operation_of_a_compaction_lose_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(made, tmp_path / "dataset")
    dataset = Dataset.open(str(folder))
    job = plan_items(dataset, ListSource(texts(*(f"late{n}" for n in range(90)))), 1)
    assert job is not None
    shards = iter(list(missing_shards(dataset, [job])))
    reader, before = Reader(folder), list(Reader(folder).ids)
    vectors = reader.vectors()
    added: list[str] = []

    def look() -> None:
        if idle:  # the worker's own operations are not the compaction's
            idle.clear()
            found = plain_ids(dataset)
            assert len(set(found)) == len(found)
            assert set(before) <= set(found)
            assert (reader.vectors() == vectors).all()
            late = Dataset.open(str(folder))
            shard = next(shards)
            item = texts(f"late{len(added)}")
            commit(late, shard.name, embedded(item), card=make_card(), worker="late")
            added.extend(one.id for one in item)
            idle.append(True)

    idle = [True]
    with before_each_operation(monkeypatch, look):
        compact_dataset(dataset, file_bytes=20_000)
    assert len(added) > 20
    found = plain_ids(dataset)
    assert sorted(found) == sorted([*before, *added])
    work(dataset, failing=(), seed=1, worker="rest")
    result = verify_dataset(Dataset.open(str(folder)))
    assert (result.problems, result.vectors) == ([], 17 + 90)


def test_a_part_that_arrives_in_the_old_folder_after_the_exchange_is_kept(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that had found the folder before the exchange, and links its part after it."""
    exchange = swap._exchange

    def exchange_late(one: str, other: str) -> None:
        exchange(one, other)
        if one.endswith("parts"):
            shutil.copy(f"{other}/00001-0000000_packed.parquet", f"{one}/late.parquet")

    monkeypatch.setattr(swap, "_exchange", exchange_late)
    compact_dataset(dataset)
    assert files(dataset) == ["00001-0000000_packed.parquet", "late.parquet"]


@pytest.mark.parametrize("sort_by_id", [False, True])
def test_a_part_that_changes_while_it_is_packed_stays_out_of_the_pack(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, *, sort_by_id: bool
) -> None:
    pack = compact_module._pack

    def pack_slowly(*args: Any) -> memoryview:
        done = pack(*args)
        replace_text(Dataset.open(dataset.root), "t5")
        return done

    monkeypatch.setattr(compact_module, "_pack", pack_slowly)
    done = compact_dataset(dataset, sort_by_id=sort_by_id)
    assert (done.packed, done.changed_meanwhile) == (0, 7)
    assert_whole(dataset, vectors=17, errors=3)
    monkeypatch.undo()
    assert compact_dataset(dataset, sort_by_id=sort_by_id).packed == 8
    assert_whole(dataset, vectors=17, errors=3)


def replace_text(dataset: Dataset, id_: str) -> None:
    """Submit newer content of an id that has a vector, and embed it."""
    items = [item for item in numbered_texts(ITEMS) if item.id != id_]
    newer = [*items, *texts(id_)]
    newer[-1] = type(newer[-1])(id=id_, text=f"newer text {random.random()}")
    refresh_items(dataset, ListSource(newer), 3, on_conflict="replace")
    work(dataset, failing=(), seed=3, worker="refresh")


def test_a_retry_a_refresh_and_a_repair_of_a_compacted_dataset_leave_it_whole(
    dataset: Dataset,
) -> None:
    compact_dataset(dataset)
    plan_retry(dataset, (), 2)
    work(dataset, failing=("t2",), seed=2, worker="retry")
    assert_whole(dataset, vectors=19, errors=1)
    replace_text(dataset, "t7")  # its part in the pack loses a row
    assert_whole(dataset, vectors=19, errors=1)
    compact_dataset(dataset)
    move_away(dataset, "00001-0000003")
    assert [shard.name for shard in missing_shards(dataset)] == ["00001-0000003"]
    assert not is_committed(dataset, "00001-0000003")
    work(dataset, failing=(), seed=4, worker="repair")
    assert_whole(dataset, vectors=19, errors=1)
    compact_dataset(dataset)
    assert len(files(dataset)) == 1
    assert plain_ids(dataset) == list(Reader(dataset.root).ids)


def test_a_part_in_a_pack_is_not_written_a_second_time(dataset: Dataset) -> None:
    compact_dataset(dataset)
    before = dataset.fs.read("parts/00001-0000004.parquet")
    rows = embedded(numbered_texts(15)[12:], seed=8)
    commit(dataset, "00001-0000004", rows, card=make_card(), worker="second")
    assert files(dataset) == ["00001-0000000_packed.parquet"]
    assert dataset.fs.read("parts/00001-0000004.parquet") == before


def test_an_index_of_a_compacted_dataset_is_up_to_date(dataset: Dataset, tmp_path: Path) -> None:
    before = build_index(dataset.root, tmp_path / "index")
    compact_dataset(dataset)
    assert build_index(dataset.root, tmp_path / "index", append=True) == before


def test_a_stream_goes_on_after_it_was_compacted(tmp_path: Path) -> None:
    dataset = new_dataset(tmp_path / "stream", kind="stream")
    for ids in ("abc", "de", "cf"):
        with contextlib.closing(KnownIds(dataset)) as known:
            commit_single_items(dataset, known, embedded(texts(*ids)), card=make_card(), worker="w")
        compact_dataset(dataset)
    assert plain_ids(dataset) == ["a", "b", "c", "d", "e", "f"]
    assert files(dataset) == ["items-0000000001_packed.parquet"]
    assert_whole(dataset, vectors=6)


def test_each_flipped_byte_of_a_pack_is_noticed_and_repaired(
    dataset: Dataset, tmp_path: Path
) -> None:
    compact_dataset(dataset)
    path = Path(dataset.root, "parts", "00001-0000000_packed.parquet")
    sound = path.read_bytes()
    for position in range(0, len(sound), 997):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :])
        assert verify_dataset(dataset).problems, position
    path.write_bytes(sound)
    assert_whole(dataset, vectors=17, errors=3)


def test_a_pack_with_a_foreign_footer_is_written_again(dataset: Dataset) -> None:
    compact_dataset(dataset)
    path = Path(dataset.root, "parts", "00001-0000000_packed.parquet")
    sound = path.read_bytes()
    at = sound.rindex(b"parquet-cpp")  # the name of the writer, which no part's checksum covers
    path.write_bytes(sound[:at] + b"X" + sound[at + 1 :])
    (problem,) = verify_dataset(dataset).problems
    assert "`clipfleet compact` writes them again" in problem
    assert compact_dataset(dataset).packed == 7
    assert path.read_bytes() == sound


def test_a_damaged_part_ends_the_compaction_before_anything_changes(dataset: Dataset) -> None:
    path = Path(dataset.root, "parts", "00001-0000003.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(DatasetError, match=r"00001-0000003.*not as it was committed"):
        compact_dataset(dataset)
    assert len(files(dataset)) == 7


def test_a_dataset_that_is_not_on_a_disk_is_refused() -> None:
    elsewhere = memory_dataset()
    elsewhere = Dataset(
        root="s3://bucket/photos", fs=PackedParts(elsewhere.fs, "parts"), info=elsewhere.info
    )
    with pytest.raises(UsageError, match="compact it, and copy it back"):
        compact_dataset(elsewhere)

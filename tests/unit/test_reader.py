"""`clipfleet.Dataset`: ids and vectors in one order, of whole parts, whatever happens meanwhile."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipfleet
from clipfleet.error_codes import EMPTY_FILE
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.commit.single_items import KnownIds, commit_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import EmbeddingDtype, Kind
from clipfleet.storage.format.parquet import ROW_GROUP_ROWS
from clipfleet.storage.plan.planner import plan_items, plan_retry
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from tests.datasets import DIM, embedded, images, make_card, numbered_texts, texts

SHARD = 4  # items


def make_dataset(
    root: Path,
    *,
    tower: str = "txt",
    kind: Kind = "planned",
    dtype: EmbeddingDtype = "float16",
    dim: int = DIM,
) -> Dataset:
    card = make_card("img" if tower == "img" else "txt", dim=dim)
    return Dataset.create(str(root), card, kind=kind, embedding_dtype=dtype)


def work(dataset: Dataset, *, failing: Sequence[str] = (), shards: int | None = None) -> None:
    """Embed so many open shards, or all: each item has a vector of its own."""
    for shard in list(missing_shards(dataset))[:shards]:
        run = read_shard_work(dataset, shard)
        rows = run.finish(embedded(run.items, failing=failing, seed=shard.index))
        commit(dataset, shard.name, rows, card=dataset.info.card, worker="w")


def plan(dataset: Dataset, items: Sequence[Item]) -> None:
    assert plan_items(dataset, ListSource(items), SHARD) is not None


def stream(dataset: Dataset, ids: str, *, failing: str = "") -> None:
    rows = embedded(texts(*ids), failing=failing)
    with closing(KnownIds(dataset)) as known:
        commit_single_items(dataset, known, rows, card=dataset.info.card, worker="w")


def stored(root: Path) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Return ids and vectors as plain pyarrow reads them, part by part."""
    tables = [pq.read_table(path) for path in sorted((root / "parts").iterdir())]
    ids = [id_ for table in tables for id_ in table["id"].to_pylist()]
    rows = [row for table in tables for row in table["embedding"].to_pylist()]
    return ids, np.array(rows, dtype=np.float64).reshape(-1, DIM)


def assert_reads(opened: clipfleet.Dataset, root: Path) -> None:
    ids, vectors = stored(root)
    assert list(opened.ids) == ids
    assert len(opened) == len(ids)
    assert opened.vectors().dtype == opened.dtype
    np.testing.assert_array_equal(opened.vectors().astype(np.float64), vectors)
    for rows in (1, 3, SHARD, 100):
        batches = list(opened.batches(rows=rows))
        assert [id_ for names, _ in batches for id_ in names] == ids
        assert [len(names) for names, _ in batches[:-1]] == [rows] * (len(batches) - 1)
        assert all(len(names) == len(part) for names, part in batches)
        together = np.concatenate([np.empty((0, DIM)), *(part for _, part in batches)])
        np.testing.assert_array_equal(together, vectors)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_ids_and_vectors_of_a_planned_dataset_go_together(
    tmp_path: Path, dtype: EmbeddingDtype
) -> None:
    dataset = make_dataset(tmp_path, dtype=dtype)
    plan(dataset, numbered_texts(11))
    work(dataset, failing=("t3", "t8"))
    opened = clipfleet.Dataset(tmp_path)
    assert_reads(opened, tmp_path)
    assert (len(opened), opened.dim, opened.dtype) == (9, DIM, np.dtype(dtype))
    assert (opened.path, opened.model) == (str(tmp_path), dataset.info.card)
    norms = np.linalg.norm(opened.vectors().astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)
    assert repr(opened) == f"<clipfleet.Dataset {tmp_path}: 9 vectors of 8, tiny txt fp32>"


def test_ids_and_vectors_of_a_stream_go_together(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, kind="stream")
    stream(dataset, "cab", failing="a")
    stream(dataset, "bd")  # b comes twice
    opened = clipfleet.Dataset(str(tmp_path))
    assert_reads(opened, tmp_path)
    assert opened.ids == ("c", "b", "d")
    assert [row.id for row in opened.errors()] == ["a"]


def test_a_part_of_several_row_groups_is_read_in_its_order(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    items = numbered_texts(ROW_GROUP_ROWS + 10)
    assert plan_items(dataset, ListSource(items), len(items)) is not None
    work(dataset)
    opened = clipfleet.Dataset(tmp_path)
    assert list(opened.ids) == [item.id for item in items]
    np.testing.assert_array_equal(opened.vectors().astype(np.float64), stored(tmp_path)[1])
    sizes = [len(ids) for ids, _ in opened.batches(rows=ROW_GROUP_ROWS - 1)]
    assert sizes == [ROW_GROUP_ROWS - 1, 11]


def test_an_empty_dataset_is_one_without_rows(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    opened = clipfleet.Dataset(tmp_path)
    assert (len(opened), opened.ids, list(opened.batches()), list(opened.errors())) == (
        *(0, ()),
        *([], []),
    )
    assert opened.vectors().shape == (0, DIM)
    assert opened.to_arrow().num_rows == 0
    assert opened.to_arrow().column_names == ["id", "text", "embedding"]


def test_a_part_whose_items_all_failed_has_no_rows(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, texts("a", "b"))
    work(dataset, failing=("a", "b"))
    opened = clipfleet.Dataset(tmp_path)
    assert (len(opened), opened.ids, opened.vectors().shape) == (0, (), (0, DIM))
    assert opened.to_arrow().num_rows == 0


def test_errors_are_rows_until_a_retry_mends_them(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, texts("a", "b", "c"))
    work(dataset, failing=("b", "c"))
    opened = clipfleet.Dataset(tmp_path)
    assert list(opened.errors()) == [
        clipfleet.ErrorRow(
            id=id_,
            uri=None,
            text=f"text of {id_}",
            error=EMPTY_FILE,
            message="it has 0 bytes",
            attempt=1,
        )
        for id_ in "bc"
    ]
    assert plan_retry(dataset, (), SHARD) is not None
    assert [row.id for row in opened.errors()] == ["b", "c"]  # planned, not done
    work(dataset, failing=("c",))
    assert [row.id for row in opened.errors()] == ["b", "c"]  # as it was when it was opened
    assert opened.ids == ("a",)
    opened.refresh()
    assert [(row.id, row.attempt) for row in opened.errors()] == [("c", 2)]
    assert sorted(opened.ids) == ["a", "b"]
    assert_reads(opened, tmp_path)


def test_a_newer_part_is_seen_after_refresh_only(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, numbered_texts(3 * SHARD))
    work(dataset, shards=1)
    opened = clipfleet.Dataset(tmp_path)
    before = opened.vectors()
    work(dataset)
    assert (len(opened), len(opened.ids)) == (SHARD, SHARD)
    np.testing.assert_array_equal(opened.vectors(), before)
    assert [len(ids) for ids, _ in opened.batches()] == [SHARD]
    assert opened.to_arrow().num_rows == SHARD
    opened.refresh()
    assert len(opened) == 3 * SHARD
    assert_reads(opened, tmp_path)


def test_ids_are_read_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, texts("a", "b"))
    work(dataset)
    opened = clipfleet.Dataset(tmp_path)
    assert opened.ids is opened.ids


@pytest.mark.parametrize("read", ["len", "ids", "vectors", "batches", "to_arrow"])
def test_a_part_that_was_moved_away_is_named(tmp_path: Path, read: str) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, numbered_texts(2 * SHARD))
    work(dataset)
    opened = clipfleet.Dataset(tmp_path)
    (tmp_path / "parts/00001-0000001.parquet").rename(tmp_path / "moved")
    with pytest.raises(
        clipfleet.DatasetError, match=r"parts/00001-0000001\.parquet was moved away: `refresh\(\)`"
    ):
        read_by(opened, read)
    opened.refresh()
    assert len(opened) == SHARD
    assert_reads(opened, tmp_path)


@pytest.mark.parametrize("read", ["ids", "vectors", "batches", "to_arrow"])
def test_a_part_that_was_replaced_by_another_is_named(tmp_path: Path, read: str) -> None:
    """Its shard was embedded anew with other failures: rows would be missing, or be too many."""
    dataset = make_dataset(tmp_path)
    plan(dataset, numbered_texts(SHARD))
    work(dataset)
    opened = clipfleet.Dataset(tmp_path)
    assert len(opened) == SHARD
    part = tmp_path / "parts/00001-0000000.parquet"
    part.unlink()
    work(dataset, failing=("t0",))
    with pytest.raises(clipfleet.DatasetError, match=r"was replaced: it had 4 rows and has 3"):
        read_by(opened, read)
    opened.refresh()
    assert opened.ids == ("t1", "t2", "t3")


@pytest.mark.parametrize("read", ["vectors", "batches", "to_arrow"])
@pytest.mark.parametrize("damage", ["bytes", "width", "nulls", "column"])
def test_a_damaged_part_is_named_with_the_way_out(tmp_path: Path, read: str, damage: str) -> None:
    dataset = make_dataset(tmp_path, dtype="float32")
    plan(dataset, texts("a", "b"))
    work(dataset)
    part = tmp_path / "parts/00001-0000000.parquet"
    rows = pq.read_table(part)
    vectors = {
        "width": pa.array([[1.0], [1.0]], pa.list_(pa.float32(), 1)),
        "nulls": pa.array([[1.0] * DIM, None], pa.list_(pa.float32(), DIM)),
    }
    if damage == "bytes":
        part.write_bytes(part.read_bytes()[:-20])
    elif damage == "column":
        pq.write_table(rows.drop_columns(["embedding"]), part)
    else:
        pq.write_table(rows.set_column(2, "embedding", vectors[damage]), part)
    opened = clipfleet.Dataset(tmp_path)
    with pytest.raises(clipfleet.DatasetError, match=r"parquet is damaged .*`clipfleet repair`"):
        read_by(opened, read)


def read_by(opened: clipfleet.Dataset, name: str) -> object:
    if name == "len":
        return len(opened)
    if name == "batches":
        return list(opened.batches(rows=2))
    found = getattr(opened, name)
    return found() if callable(found) else found


def test_the_columns_of_images_have_their_sizes(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, tower="img")
    plan(dataset, images("a", "b", "c"))
    work(dataset, failing=("b",))
    opened = clipfleet.Dataset(tmp_path)
    table = opened.to_arrow()
    assert table.column_names == ["id", "uri", "width", "height", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), DIM)
    assert table.select(["id", "uri", "width", "height"]).to_pylist() == [
        {"id": id_, "uri": f"/pictures/{id_}", "width": 640, "height": 480} for id_ in "ac"
    ]
    assert [row.uri for row in opened.errors()] == ["/pictures/b"]
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, DIM), opened.vectors())


def test_batches_do_not_share_memory(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    plan(dataset, numbered_texts(6))
    work(dataset)
    opened = clipfleet.Dataset(tmp_path)
    (_, first), (_, second) = opened.batches(rows=3)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(np.concatenate([first, second]), opened.vectors())


@pytest.mark.parametrize("rows", [0, -1])
def test_batches_of_no_rows_are_refused(tmp_path: Path, rows: int) -> None:
    make_dataset(tmp_path)
    with pytest.raises(ValueError, match=f"rows is {rows}: expected at least 1"):
        next(clipfleet.Dataset(tmp_path).batches(rows=rows))


def test_all_vectors_take_their_own_memory_and_a_row_group(tmp_path: Path) -> None:
    """By NumPy's and Arrow's own counts, at the peak."""
    dim, parts = 32, 6
    dataset = make_dataset(tmp_path, dtype="float32", dim=dim)
    items = numbered_texts(ROW_GROUP_ROWS * parts)
    assert plan_items(dataset, ListSource(items), ROW_GROUP_ROWS) is not None
    for shard in missing_shards(dataset):
        rows = embedded(read_shard_work(dataset, shard).items)
        wide = np.tile(rows.vectors, dim // DIM) / np.float32((dim // DIM) ** 0.5)
        whole = replace(rows, vectors=wide)
        commit(dataset, shard.name, whole, card=dataset.info.card, worker="w")
    opened = clipfleet.Dataset(tmp_path)
    group_bytes = ROW_GROUP_ROWS * dim * 4
    usual_pool = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual_pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        vectors = opened.vectors()
        numpy_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual_pool)
    assert vectors.nbytes == parts * group_bytes
    assert numpy_bytes < vectors.nbytes + 2 * group_bytes
    assert 0 < pool.max_memory() < 5 * group_bytes


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(clipfleet.DatasetError, match="no dataset at"):
        clipfleet.Dataset(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(clipfleet.DatasetError, match="no dataset at"):
        clipfleet.Dataset(tmp_path)


def test_given_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    settings = Settings()
    monkeypatch.setenv("CLIPFLEET_STORE_TIMEOUT_S", "never")
    assert len(clipfleet.Dataset(tmp_path, settings=settings)) == 0
    with pytest.raises(clipfleet.SettingsError, match="store_timeout_s"):
        clipfleet.Dataset(tmp_path)

"""Exports: every id once with its own vector, in each format; nothing is left of a failed one."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipfleet
from clipfleet.architectures import TOWERS, Tower
from clipfleet.cli.retrieval.export_commands import TargetName
from clipfleet.errors import DatasetError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.export import copy_file, parquet_folder
from clipfleet.retrieval.export.export import TARGETS, Target, export
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import EmbeddingDtype
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.storage.sources.base import ListSource
from tests.datasets import DIM, embedded, make_card

ODD = "tab\there, \\ and\nlines\r\u2028 图"
IDS = ("10", "9", ODD, "-7", "b")


def make(
    root: Path, tower: Tower = "img", ids: tuple[str, ...] = IDS, dtype: EmbeddingDtype = "float16"
) -> clipfleet.Dataset:
    """Make a dataset of three shards, in which one more item failed."""
    made = Dataset.create(str(root), make_card(tower), kind="planned", embedding_dtype=dtype)
    values = [{"uri" if tower == "img" else "text": f"value of {id_}"} for id_ in ids]
    items = [Item(id=id_, **value) for id_, value in zip(ids, values, strict=True)]
    failed = Item(id="failed", **{next(iter(values[0])): "nothing"})
    assert plan_items(made, ListSource([*items, failed]), 2) is not None
    for shard in list(missing_shards(made)):
        work = read_shard_work(made, shard)
        rows = work.finish(embedded(work.items, failing=("failed",), seed=shard.index))
        commit(made, shard.name, rows, card=made.info.card, worker="w")
    return clipfleet.Dataset(root)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


@pytest.mark.parametrize("tower", TOWERS)
def test_features_are_as_the_scripts_of_chinese_clip_read_them(
    tmp_path: Path, tower: Tower
) -> None:
    dataset = make(tmp_path / "d", tower)
    done = export(dataset.path, tmp_path / "out" / "f.jsonl", to="jsonl")
    assert done.rows == len(IDS)
    key = "image_id" if tower == "img" else "text_id"
    rows = [json.loads(line) for line in lines_of(tmp_path / "out" / "f.jsonl")]
    assert [list(row) for row in rows] == [[key, "feature"]] * len(IDS)
    assert tuple(row[key] for row in rows) == dataset.ids == IDS
    assert np.array_equal([row["feature"] for row in rows], dataset.vectors())


def test_ids_become_whole_numbers_only_if_all_are(tmp_path: Path) -> None:
    numbers = make(tmp_path / "numbers", ids=("10", "9", "-7"))
    export(numbers.path, tmp_path / "f.jsonl", to="jsonl", int_ids=True)
    ids = [json.loads(line)["image_id"] for line in lines_of(tmp_path / "f.jsonl")]
    assert ids == [10, 9, -7]
    mixed = make(tmp_path / "mixed", ids=("10", "007"))
    with pytest.raises(UsageError, match="'007' is no whole number: leave out --int-ids"):
        export(mixed.path, tmp_path / "g.jsonl", to="jsonl", int_ids=True)
    assert sorted(os.listdir(tmp_path)) == ["f.jsonl", "mixed", "numbers"]


@pytest.mark.parametrize("dtype", get_args(EmbeddingDtype))
def test_numpy_and_fvecs_have_the_vectors_in_the_order_of_the_ids_beside_them(
    tmp_path: Path, dtype: EmbeddingDtype
) -> None:
    dataset = make(tmp_path / "d", dtype=dtype)
    for to in ("npy", "fvecs"):
        export(dataset.path, tmp_path / to, to=to)
        assert tuple(map(json.loads, lines_of(tmp_path / to / "ids.jsonl"))) == dataset.ids
    vectors = np.load(tmp_path / "npy" / "vectors.npy")
    assert vectors.dtype == dtype
    assert np.array_equal(vectors, dataset.vectors())
    words = np.fromfile(tmp_path / "fvecs" / "vectors.fvecs", np.int32).reshape(-1, 1 + DIM)
    assert (words[:, 0] == DIM).all()
    assert np.array_equal(words[:, 1:].copy().view(np.float32), dataset.vectors())


def test_text_for_postgresql_keeps_every_character_of_ids_and_texts(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", "txt")
    export(dataset.path, tmp_path / "copy.txt", to="pgvector")
    lines = lines_of(tmp_path / "copy.txt")
    assert lines[2].startswith("tab\\there, \\\\ and\\nlines\\r\u2028 图\tvalue of tab\\there")
    found = [copy_file.CopyFile().parse(line) for line in lines]
    assert tuple(id_ for id_, _ in found) == dataset.ids
    assert np.array_equal([vector for _, vector in found], dataset.vectors())


def test_a_text_that_postgresql_cannot_store_is_refused(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", "txt", ids=("a", "b\0"))
    with pytest.raises(UsageError, match="has a NUL"):
        export(dataset.path, tmp_path / "copy.txt", to="pgvector")
    assert os.listdir(tmp_path) == ["d"]


def test_points_for_qdrant_have_the_same_uuid_in_each_export(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d")
    export(dataset.path, tmp_path / "p.jsonl", to="qdrant")
    points = [json.loads(line) for line in lines_of(tmp_path / "p.jsonl")]
    assert [point["id"] for point in points] == [
        str(uuid.uuid5(uuid.NAMESPACE_URL, id_)) for id_ in IDS
    ]
    first = {"id": "10", "uri": "value of 10", "width": 640, "height": 480}
    assert points[0]["payload"] == first
    assert np.array_equal([point["vector"] for point in points], dataset.vectors())


def test_parquet_is_sorted_by_id_if_asked_and_cut_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path / "d")
    export(dataset.path, tmp_path / "plain", to="parquet")
    assert pq.read_table(tmp_path / "plain").equals(dataset.to_arrow())
    monkeypatch.setattr(parquet_folder, "FILE_BYTES", 1)
    monkeypatch.setattr(parquet_folder, "_ROW_GROUP_ROWS", 2)
    export(dataset.path, tmp_path / "sorted", to="parquet", sort_by_id=True)
    files = sorted(path.name for path in (tmp_path / "sorted").iterdir())
    assert files == ["00000.parquet", "00001.parquet", "00002.parquet"]
    table = pq.read_table(tmp_path / "sorted")
    assert table["id"].to_pylist() == sorted(IDS, key=str.encode)
    expected = dataset.to_arrow().sort_by("id")
    assert table.equals(expected.cast(table.schema))


@pytest.mark.parametrize("to", [target for target in TARGETS if target != "lance"])
def test_a_dataset_without_vectors_is_exported_too(tmp_path: Path, to: Target) -> None:
    made = Dataset.create(
        str(tmp_path / "d"), make_card("txt"), kind="planned", embedding_dtype="float16"
    )
    assert export(made.root, tmp_path / "out", to=to).rows == 0


@pytest.mark.parametrize("to", TARGETS)
def test_an_out_that_exists_stays_as_it_is(tmp_path: Path, to: Target) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out exists"):
        export(tmp_path, tmp_path / "out", to=to)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("to", ["jsonl", "npy", "fvecs", "pgvector", "qdrant", "parquet"])
def test_what_is_not_read_back_whole_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Target
) -> None:
    """A row is lost between the dataset and the file."""
    dataset = make(tmp_path / "d")
    tables = clipfleet.Dataset.tables

    def without_first(self: clipfleet.Dataset, columns: list[str]) -> object:
        return (table.slice(1) for table in tables(self, columns))

    monkeypatch.setattr(clipfleet.Dataset, "tables", without_first)
    with pytest.raises(clipfleet.ClipfleetError):
        export(dataset.path, tmp_path / "out", to=to)
    assert os.listdir(tmp_path) == ["d"]


def test_a_changed_id_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path / "d")
    monkeypatch.setattr(copy_file, "_ESCAPES", {"\\": "", "\t": "", "\n": "", "\r": ""})
    with pytest.raises(DatasetError, match="5 vectors, 5 were written and 5 read back, or their"):
        export(dataset.path, tmp_path / "out", to="pgvector")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "npy", "int_ids": True}, "--int-ids is for --to jsonl, not npy"),
        ({"to": "jsonl", "sort_by_id": True}, "--sort is for --to parquet, not jsonl"),
        ({"to": "csv"}, "no export to 'csv': expected one of fvecs, jsonl"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_the_command_has_all_targets() -> None:
    assert tuple(target.value for target in TargetName) == TARGETS

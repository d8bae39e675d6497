"""Files of queries: their kinds, and their faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetMismatchError, SourceError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.retrieval.search.open_queries import given_queries, open_queries
from clipfleet.retrieval.search.queries import Encode, Queries
from clipfleet.retrieval.search.ready_vectors import ready_queries
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import part_of, part_path
from clipfleet.storage.format.results import Embedded
from tests.datasets import DIM, embedded, embedded_texts, make_card
from tests.stand_in_index import StandInIndex

GOOD = [float(n) for n in range(1, DIM + 1)]
UNIT = np.array(GOOD, np.float32) / np.linalg.norm(GOOD)


def index_card(checkpoint: str = "c") -> IndexCard:
    one = embedded([Item(id="a", uri="/a.jpg")])
    card = StandInIndex(one.items, one.vectors).card
    model = make_card("img", checkpoint=checkpoint)
    return IndexCard(**{**vars_of(card), "model": model})


def vars_of(card: IndexCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__dataclass_fields__}


def encode(items: Sequence[Item]) -> Embedded:
    return embedded(items, failing={item.id for item in items if not (item.text or item.uri)})


class Encoders:
    """Opens the same encoder for each tower, and keeps which were opened."""

    def __init__(self) -> None:
        self.towers: list[Tower] = []

    def __call__(self, tower: Tower) -> Encode:
        self.towers.append(tower)
        return encode


def opened(path: Path, **given: Any) -> list[Queries]:
    options = {"size": 2, "has_model": False, "tower": None, "options": {}, **given}
    card, encoders = options.pop("card", index_card()), options.pop("encoders", Encoders())
    return list(open_queries(str(path), card, encoders, **options))


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_file_of_texts_or_images_opens_that_towers_engine(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"text {n}"} for n in range(4)]
    files = {
        "txt": write_jsonl(tmp_path / "texts.jsonl", *rows, {"id": 4, "text": ""}),
        "img": write_parquet(tmp_path / "images.parquet", path=["a.jpg", "/b.jpg"]),
    }
    for tower, path in files.items():
        encoders = Encoders()
        batches = opened(path, encoders=encoders, has_model=True)
        assert encoders.towers == [tower]
        assert {batch.tower for batch in batches} == {tower}
        if tower == "img":
            assert batches[0].asked == [str(tmp_path / "a.jpg"), "/b.jpg"]
        else:
            assert [batch.first for batch in batches] == [0, 2, 4]
            assert [id_ for batch in batches for id_ in batch.ids] == ["0", "1", "2", "3", "4"]
            assert list(batches[2].failures) == [0], "an empty text is a failed query"


@pytest.mark.parametrize("kind", ["lists", "float16 of fixed size", "jsonl", "the guide's"])
def test_ready_vectors_are_normalised_and_a_bad_one_fails_alone(tmp_path: Path, kind: str) -> None:
    ids = ["a", "zeros", "not-a-number", "b"]
    rows = [GOOD, [0.0] * DIM, [float("nan"), *GOOD[1:]], [2 * one for one in GOOD]]
    if kind == "lists":
        path = write_parquet(tmp_path / "v.parquet", id=ids, vector=rows)
    elif kind == "float16 of fixed size":
        halves = pa.array([np.array(row, np.float16) for row in rows], pa.list_(pa.float16(), DIM))
        path = write_parquet(tmp_path / "v.parquet", id=ids, text=ids, embedding=halves)
    elif kind == "jsonl":
        pairs = zip(ids, rows, strict=True)
        path = write_jsonl(tmp_path / "v.jsonl", *({"id": i, "vector": row} for i, row in pairs))
    else:
        pairs = zip(ids, rows, strict=True)
        path = write_jsonl(
            tmp_path / "v.jsonl", *({"text_id": i, "feature": row} for i, row in pairs)
        )
    batches = opened(path)
    assert [id_ for batch in batches for id_ in batch.ids] == ids
    assert [list(batch.failures) for batch in batches] == [[1], [0]]
    assert batches[0].failures[1].error == batches[1].failures[0].error == "non_finite"
    np.testing.assert_allclose(batches[0].vectors[0], UNIT, atol=1e-3)
    np.testing.assert_allclose(batches[1].vectors[1], UNIT, atol=1e-3)
    assert not batches[0].vectors[1].any()


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    count, dim = 20_000, 256
    flat = pa.array(np.random.default_rng(0).random(count * dim, np.float32))
    size_bytes = flat.nbytes
    vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
    path = tmp_path / "v.parquet"
    table = pa.table({"id": np.arange(count), "vector": vectors})
    pq.write_table(table, path, use_dictionary=False)
    del table, flat, vectors
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for batch in ready_queries(str(path), dim=dim, size=1024):
        most, rows = max(most, pa.total_allocated_bytes() - before), rows + len(batch)
    assert rows == count
    assert most < size_bytes / 2


@pytest.mark.filterwarnings("error")
def test_a_vector_of_another_form_fails_alone(tmp_path: Path) -> None:
    large = [1e39] * DIM  # float64, beyond float32
    table = write_parquet(
        tmp_path / "v.parquet", id=["a", "b", "c", "d"], vector=[GOOD, [1.0], None, large]
    )
    forms: list[object] = [GOOD, [1.0], None, "no list", ["1"] * DIM, [10**400] * DIM, large]
    lines = write_jsonl(
        tmp_path / "v.jsonl", *({"id": n, "vector": form} for n, form in enumerate(forms))
    )
    for path, count in ((table, 4), (lines, len(forms))):
        [batch] = opened(path, size=100)
        assert sorted(batch.failures) == list(range(1, count))
        assert batch.failures[1].message == f"the vector: it has 1 values, expected {DIM} numbers"
        assert np.isfinite(batch.vectors).all()


def test_a_dataset_gives_its_vectors_and_its_failures(tmp_path: Path) -> None:
    dataset = Dataset.create(
        str(tmp_path), make_card("txt"), kind="planned", embedding_dtype="float16"
    )
    data, _ = part_of(
        embedded_texts(5, failures=1), dataset.info, make_card("txt"), "00001-0000000"
    )
    dataset.fs.create(part_path("00001-0000000"), bytes(data))
    batches = opened(tmp_path)
    assert [id_ for batch in batches for id_ in batch.ids] == ["t0", "t1", "t2", "t3", "t4"]
    assert [len(batch.failures) for batch in batches] == [0, 0, 1]
    assert batches[2].failures[0].error == "empty_file"
    other, part = index_card(checkpoint="d"), tmp_path / part_path("00001-0000000")
    for place in (tmp_path, part):
        with pytest.raises(DatasetMismatchError, match="checkpoint"):
            opened(place, card=other)
    assert opened(part)[0].ids == ["t0", "t1"]


def test_a_model_for_ready_vectors_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "v.parquet", id=["a"], text=["b"], vector=[GOOD])
    with pytest.raises(UsageError, match=r"v\.parquet has vectors already: leave --model out"):
        opened(path, has_model=True)
    [batch] = opened(path, has_model=True, tower="txt")
    assert batch.asked == ["b"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": 1, "vector": [1]}\n{"id": 2}\n', r"line 2: no column 'embedding' or 'vector'"),
        ('{"id": 1, "vector": [1]}\nno json\n', "line 2: .* is not JSON"),
        ('{"vector": [1]}\n', "line 1: no column 'id' or 'text_id'"),
        ('{"id": "", "vector": [1]}\n', "line 1: the id is ''"),
        ('{"id": 1, "word": "a"}\n', "line 1: no column"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_line(
    tmp_path: Path, content: str, told: str
) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(content)
    with pytest.raises(SourceError, match=told):
        opened(path)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"v\.parquet cannot be read as Parquet"):
        opened(path)
    write_parquet(path, id=["a"], vector=[["1"] * DIM])
    with pytest.raises(SourceError, match=r"of type list<.*string>, expected lists of numbers"):
        opened(path)


def test_texts_and_images_of_a_command_line_are_numbered_through() -> None:
    encoders = Encoders()
    batches = list(
        given_queries(["a", ""], ["/b.jpg", "https://a/b.jpg", "c.jpg"], encoders, dim=DIM)
    )
    assert encoders.towers == ["txt", "img"]
    assert [batch.first for batch in batches] == [0, 2]
    assert batches[0].ids == ["1", "2"]
    assert batches[1].ids == ["/b.jpg", "https://a/b.jpg", "c.jpg"]
    assert batches[1].asked == ["/b.jpg", "https://a/b.jpg", str(Path.cwd() / "c.jpg")]
    assert list(batches[0].failures) == [1]
    with pytest.raises(UsageError, match="nothing to search for"):
        given_queries([], [], encoders, dim=DIM)
    with pytest.raises(UsageError, match="item 1 is not an item"):
        given_queries(["\udcff"], [], encoders, dim=DIM)

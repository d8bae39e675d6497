"""Answers: the order of the hits, and a row for each query that has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.errors import StorageError
from clipfleet.items import Item
from clipfleet.retrieval.search.answers import NO_NEIGHBOUR
from clipfleet.retrieval.search.queries import encoded_queries
from clipfleet.retrieval.search.search import batch_size, search
from clipfleet.storage.format.results import Embedded
from tests.datasets import DIM, embedded, images, texts
from tests.stand_in_index import stand_in_index

PICTURES = embedded(images(*(f"{n:03d}.jpg" for n in range(40))), seed=1)
INDEX = stand_in_index(PICTURES.items, PICTURES.vectors)
K = 5


def encode(items: Sequence[Item]) -> Embedded:
    """Embed items; those whose ids start with `bad` fail."""
    bad = {item.id for item in items if item.id.startswith("bad")}
    return embedded(items, failing=bad, seed=len(items))


def test_every_query_has_its_hits_in_numpys_order_or_its_error(tmp_path: Path) -> None:
    ids = ["bad-0", *(f"q{n}" for n in range(6)), "bad-1", "q6"]
    out = tmp_path / "answers.parquet"
    batches = list(encoded_queries(texts(*ids), encode, tower="txt", dim=DIM, size=4))
    found = search(INDEX, batches, K, out=out, keep=3)
    assert (found.queries, found.failed) == (9, 2)
    assert [answer.query_id for answer in found.answers] == ids[:3]
    rows = pq.read_table(out).to_pylist()
    assert [row["query"] for row in rows] == sorted(row["query"] for row in rows)
    vectors = np.concatenate([batch.vectors for batch in batches])
    for position, query_id in enumerate(ids):
        own = [row for row in rows if row["query"] == position]
        assert {row["query_id"] for row in own} == {query_id}
        if query_id.startswith("bad"):
            assert [(row["error"], row["rank"], row["id"]) for row in own] == [
                ("empty_file", None, None)
            ]
            continue
        cosines = PICTURES.vectors @ vectors[position]
        order = np.argsort(-cosines)[:K]
        assert [row["id"] for row in own] == [PICTURES.items[n].id for n in order]
        assert [row["uri"] for row in own] == [PICTURES.items[n].uri for n in order]
        assert [row["rank"] for row in own] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([row["score"] for row in own], cosines[order], rtol=1e-6)
        assert {row["error"] for row in own} == {None}


def test_fewer_rows_than_asked_are_fewer_hits_and_no_row_is_an_error() -> None:
    few = stand_in_index(PICTURES.items[:2], PICTURES.vectors[:2])
    none = stand_in_index(PICTURES.items[:2], PICTURES.vectors[:2], hidden=[0, 1])
    batches = list(encoded_queries(texts("q"), encode, tower="txt", dim=DIM, size=1))
    [answer] = search(few, batches, K, keep=1).answers
    assert sorted(hit.id for hit in answer.hits) == ["000.jpg", "001.jpg"]
    found = search(none, batches, K, keep=1)
    assert found.failed == 1
    [answer] = found.answers
    assert answer.failure is not None
    assert answer.failure.error == NO_NEIGHBOUR
    assert not answer.hits


def test_queries_with_one_id_stay_apart() -> None:
    items = [Item(id="same", text="a"), Item(id="bad", text=""), Item(id="same", text="b")]
    batches = encoded_queries(items, encode, tower="txt", dim=DIM, size=3)
    found = search(INDEX, batches, 1, keep=3)
    assert [(one.query_id, one.asked, len(one.hits)) for one in found.answers] == [
        ("same", "a", 1),
        ("bad", "", 0),
        ("same", "b", 1),
    ]


def test_a_batch_is_small_where_each_query_has_many_hits() -> None:
    assert batch_size(10) == 1024
    assert batch_size(1 << 17) == 2
    assert batch_size(1 << 30) == 1


def test_a_failed_search_leaves_the_older_file(tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    out.write_text("older")

    def broken(items: Sequence[Item]) -> Embedded:
        raise StorageError(f"the disk is gone: {EMPTY_TEXT}")

    batches = encoded_queries(texts("a"), broken, tower="txt", dim=DIM, size=1)
    with pytest.raises(StorageError, match="the disk is gone"):
        search(INDEX, batches, K, out=out, keep=0)
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]

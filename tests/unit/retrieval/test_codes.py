"""Codes that are merged are those that were added at once."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.retrieval.index import codes as codes_module
from clipfleet.retrieval.index.codes import Codes, same_lists, train
from clipfleet.retrieval.index.parameters import Structure

DIM = 8
FEW = 40  # rows, which end in the middle of a block


@pytest.fixture
def _watched_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a merge that FAISS 1.15 would write beyond the end of a list."""
    merge_from = faiss.IndexIVF.merge_from

    def watched(index: Any, other: Any, first_row: int) -> None:
        lists = lists_of(index)
        for number in range(lists.nlist):
            rows = lists.list_size(number)
            added = other.invlists.list_size(number)
            assert rows % lists.block_size or 0 in (rows, added)
        merge_from(index, other, first_row)

    monkeypatch.setattr(faiss.IndexIVF, "merge_from", watched)


def trained(bits: int) -> Codes:
    sample = np.concatenate([rows_of(100, 1, seed=1), rows_of(100, -1, seed=2)])
    return train(Structure(kind="ivf-rabitq", lists=2, bits=bits), DIM, sample)


def rows_of(count: int, side: int, *, seed: int) -> NDArray[np.float16]:
    """Return vectors (count, DIM) that all lie in one of two lists."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)) / DIM
    vectors[:, 0] = side
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def lists_of(faiss_index: Any) -> Any:
    """Return FAISS's lists, whose class its types leave out."""
    return faiss.downcast_InvertedLists(faiss_index.invlists)


def block_bytes(codes: Codes) -> int:
    return int(lists_of(codes.faiss_index).block_size)


def assert_same(codes: Codes, expected: Codes) -> None:
    """All rows stand in the same order by the distance of their codes."""
    assert len(codes) == len(expected)
    queries = np.random.default_rng(9).standard_normal((5, DIM)).astype(np.float32)
    found = codes.nearest(queries, len(codes), probes=2)
    np.testing.assert_array_equal(found, expected.nearest(queries, len(codes), probes=2))
    assert found.min() == 0  # none is missing


@pytest.mark.usefixtures("_watched_merges")
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_list_of_as_many_rows_as_a_block_has_bytes_can_be_merged(bits: int, blocks: int) -> None:
    codes = trained(bits)
    rows = blocks * block_bytes(codes)
    first = np.concatenate([rows_of(rows, 1, seed=3), rows_of(FEW, -1, seed=4)])
    more = np.concatenate([rows_of(FEW, 1, seed=5), rows_of(FEW, -1, seed=6)])
    shard, expected = same_lists(codes, bits), same_lists(codes, bits)
    codes.add(first)
    shard.add(more)
    for vectors in (first, more):
        expected.add(vectors)
    assert codes.faiss_index.invlists.list_size(0) in (rows, FEW)

    codes.merge(shard, len(first))

    assert_same(codes, expected)
    assert len(shard) == 0


@pytest.mark.usefixtures("_watched_merges")
def test_a_repeated_list_may_come_to_as_many_rows_as_a_block_has_bytes() -> None:
    codes = trained(1)
    rows = block_bytes(codes) // 2
    vectors = rows_of(rows, 1, seed=3)
    codes.add(vectors)

    codes.repeat(4)

    assert len(codes) == 4 * rows
    found = codes.nearest(vectors[:3].astype(np.float32), 4 * rows, probes=2)
    assert [sorted(each) for each in found.tolist()] == [list(range(4 * rows))] * 3
    for copies in np.sort(found[:, :4], axis=1) % rows:
        assert len(set(copies.tolist())) == 1


def test_queries_in_blocks_find_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = trained(1)
    filled.add(rows_of(50, 1, seed=3))
    queries = rows_of(9, 1, seed=4).astype(np.float32)
    together = filled.nearest(queries, 5, probes=2)
    tables_of_two_lists = 2 * (DIM // 4) * 16 * 5
    monkeypatch.setattr(codes_module, "SEARCH_BYTES", 4 * tables_of_two_lists)
    asked: list[int] = []
    search = filled.faiss_index.search

    def watched(some: NDArray[np.float32], *rest: Any, **named: Any) -> Any:
        asked.append(len(some))
        return search(some, *rest, **named)

    filled.faiss_index.search = watched
    np.testing.assert_array_equal(filled.nearest(queries, 5, probes=2), together)
    assert asked == [4, 4, 1]

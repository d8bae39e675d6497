"""Recall that can be computed by hand: ties, tombstones, repeated rows, small indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.retrieval.certificate.recall import (
    interval,
    provable,
    recall_of,
    search_itself,
    shares_found,
)
from clipfleet.retrieval.certificate.sample import QuerySample, exact_neighbours, held_out
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.neighbours import Neighbours
from tests.unit.retrieval.list_index import ListIndex, on_a_line

ONE_LIST = SearchParameters(probes=1, rerank=10)


def sample_of(*vectors: list[float]) -> QuerySample:
    return QuerySample(kind="txt", vectors=np.array(vectors, np.float32))


def shares(index: ListIndex, sample: QuerySample, k: int) -> NDArray[np.float64]:
    (exact,) = exact_neighbours(index, [sample])
    return shares_found(index, sample, exact, k, ONE_LIST)


def test_half_of_the_lists_find_half_of_the_neighbours() -> None:
    index = ListIndex(on_a_line(200), lists=2)  # the query's order is 0, 1, 2, …; odd ones are lost
    (exact,) = exact_neighbours(index, [sample_of([1, 0])])

    found = recall_of(index, sample_of([1, 0]), exact, ONE_LIST)

    assert exact.rows[0].tolist() == list(range(100))
    assert [at.mean for at in found.at] == [1.0, 0.5, 0.5]
    assert found.found == (0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)
    assert found.worst == 0.5
    assert found.without_hit == 0


def test_a_held_out_row_is_no_answer_to_itself() -> None:
    index = ListIndex(on_a_line(4), lists=2)
    sample = held_out(index, count=10, seed=0)
    (exact,) = exact_neighbours(index, [sample])

    assert sample.own is not None
    assert sample.own.tolist() == [0, 1, 2, 3]
    for row, others in enumerate(exact.rows):
        assert set(others.tolist()) == {0, 1, 2, 3, -1} - {row}
    # Of three others, those in list 0: row 2 for row 0; rows 0 and 2 for row 1; …
    assert shares_found(index, sample, exact, 10, ONE_LIST) == pytest.approx(
        [1 / 3, 2 / 3, 1 / 3, 2 / 3]
    )


def test_equal_scores_count_as_found() -> None:
    twins = np.repeat(on_a_line(20), 2, axis=0)  # rows 0 and 1 are equal, rows 2 and 3, …
    index = ListIndex(twins, lists=2)

    assert shares(index, sample_of([1, 0]), 1) == [1.0]  # row 0, or row 1
    assert shares(index, sample_of([1, 0]), 10) == [0.5]  # five pairs, and one of each


def test_a_tombstone_and_a_repeated_row_are_no_hits() -> None:
    class Wrong(ListIndex):
        def search(self, queries: NDArray[np.float32], k: int, **_: Any) -> Neighbours:
            rows = np.array([[1, 1, 0, 2]])[:, :k]
            return Neighbours(rows=rows, scores=np.ones(rows.shape, np.float32))

    index = Wrong(on_a_line(9), dead=(0,))

    assert shares(index, sample_of([1, 0]), 4) == [0.5]  # rows 1 and 2 of 1, 2, 3, 4


def test_scores_are_computed_from_the_vectors_and_not_believed() -> None:
    class Liar(ListIndex):
        def search(self, queries: NDArray[np.float32], k: int, **_: Any) -> Neighbours:
            return Neighbours(rows=np.array([[8]]), scores=np.ones((1, 1), np.float32))

    assert shares(Liar(on_a_line(9)), sample_of([1, 0]), 1) == [0.0]


def test_a_row_is_found_by_its_own_vector_unless_its_list_is_not_read() -> None:
    index = ListIndex(on_a_line(40), lists=4)
    everything = held_out(index, count=40, seed=0)

    itself = search_itself(index, everything, ONE_LIST)

    assert (itself.rows, itself.found) == (40, 10)


def test_a_row_that_ten_equal_ones_crowd_out_counts_as_found() -> None:
    index = ListIndex(np.repeat(on_a_line(1), 30, axis=0))

    itself = search_itself(index, held_out(index, count=30, seed=0), ONE_LIST)

    assert (itself.rows, itself.found) == (30, 30)


def test_an_index_of_one_row_has_nothing_to_miss() -> None:
    index = ListIndex(on_a_line(1))
    sample = held_out(index, count=10, seed=0)
    (exact,) = exact_neighbours(index, [sample])

    assert shares_found(index, sample, exact, 10, ONE_LIST) == [1.0]


def test_one_missed_query_more_keeps_the_bound_below_one() -> None:
    assert interval(np.ones(1000)).low == pytest.approx((1000 - 1.96) / 1001, abs=1e-5)
    assert provable(58) < 0.95 < provable(59)
    assert interval(np.zeros(5)).low == 0.0
    assert interval(np.ones(5)).high == 1.0


def test_the_interval_of_many_queries_is_the_normal_one() -> None:
    found = np.random.default_rng(0).binomial(10, 0.9, 100_000) / 10

    at = interval(found)

    half = 1.96 * found.std() / np.sqrt(len(found))
    assert at.mean == found.mean()
    assert at.low == pytest.approx(found.mean() - half, abs=2e-5)
    assert at.high == pytest.approx(found.mean() + half, abs=2e-5)

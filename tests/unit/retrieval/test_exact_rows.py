"""The search of an exact index: the plain product and a stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from clipfleet.retrieval.index.exact_rows import ExactRows

DIM = 8
ROWS = 400


@pytest.mark.parametrize("k", [1, 10, 120, ROWS])  # FAISS keeps a heap, or from 100 on a reservoir
def test_equal_scores_are_ordered_by_row_where_the_answer_is_cut_off(k: int) -> None:
    random = np.random.default_rng(3)
    # Small integers: their products are exact, and many are equal.
    vectors = random.integers(-1, 2, (ROWS, DIM)).astype(np.float16)
    queries = random.integers(-1, 2, (30, DIM)).astype(np.float32)
    alive = np.ones(ROWS, np.bool_)
    alive[40:60] = False
    products = queries @ vectors.astype(np.float32).T
    products[:, ~alive] = -np.inf
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(products, expected, axis=1)

    found = ExactRows([vectors[:150], vectors[150:]], alive, DIM).nearest(queries, k)

    np.testing.assert_array_equal(found.rows, np.where(np.isinf(scores), -1, expected))
    np.testing.assert_array_equal(found.scores, scores)

"""`exact_top_k`: the plain product and a stable sort, whatever the blocks are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from clipfleet.retrieval import exact
from clipfleet.retrieval.exact import exact_top_k

DIM = 8


def grid(rows: int, *, values: int, seed: int) -> NDArray[np.float32]:
    """Return vectors of small integers: their products are exact, and many are equal."""
    return np.random.default_rng(seed).integers(-values, values + 1, (rows, DIM)).astype(np.float32)


def cut(vectors: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    return np.split(vectors, np.cumsum(sizes))


@pytest.mark.parametrize("queries", [3, 40])
@pytest.mark.parametrize("k", [1, 10, 400])  # the last is larger than a tile
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_equal_scores_are_ordered_by_row_across_blocks_and_tiles(
    queries: int, k: int, dtype: DTypeLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_TILE_ROWS", 300)
    monkeypatch.setattr(exact, "_TILE_QUERIES", 7)
    vectors, asked = grid(2000, values=1, seed=0), grid(queries, values=1, seed=1)
    products = asked @ vectors.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]

    found = exact_top_k(asked, (b.astype(dtype) for b in cut(vectors, [1, 0, 650, 299])), k)

    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(products, expected, axis=1))
    assert [found.rows.dtype.name, found.scores.dtype.name] == ["int64", "float32"]


def test_missing_rows_are_minus_one_and_nan_is_no_neighbour() -> None:
    vectors = grid(4, values=3, seed=2)
    vectors[1, 0] = np.nan

    found = exact_top_k(grid(2, values=3, seed=3), [vectors[:3], vectors[3:]], 6)

    assert {*found.rows[:, :3].ravel().tolist()} == {0, 2, 3}
    assert (found.rows[:, 3:] == -1).all()
    assert (found.scores[:, 3:] == -np.inf).all()
    empty = exact_top_k(grid(2, values=3, seed=3), [], 2)
    assert (empty.rows == -1).all()


@pytest.mark.parametrize(
    ("k", "width", "message"), [(0, DIM, "k is 0"), (1, 5, r"shape \(2, 5\), expected \(n, 8\)")]
)
def test_a_wrong_k_or_width_is_refused(k: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact_top_k(grid(1, values=1, seed=0), [np.zeros((2, width), np.float32)], k)

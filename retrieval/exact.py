"""Exact search: every query is compared with every vector, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.neighbours import Neighbours

_TILE_ROWS = 8192  # of vectors in float32: 16 MB at D = 512
_TILE_QUERIES = 512  # whose products with a tile are held: 16 MB


def exact_top_k(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.floating[Any]]], k: int
) -> Neighbours:
    """Return the k rows with the largest inner products: of vectors with norm 1, the cosines.

    `queries` is float32 (q, D). `blocks` are float16 or float32 (n, D), with any n; row 0 is the
    first vector of the first block. Memory holds one block, some 60 MB, and the result. A NaN is
    never a neighbour.

    Raises:
        ValueError: k is below 1, or a block has another width than the queries.
    """
    if k < 1:
        raise ValueError(f"k is {k}: expected at least 1")
    queries = np.ascontiguousarray(queries, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    start = 0
    for tile in _tiles(blocks, queries.shape[1]):
        for first in range(0, len(queries), _TILE_QUERIES):
            some = slice(first, first + _TILE_QUERIES)
            _merge(queries[some] @ tile.T, start, rows[some], scores[some])
        start += len(tile)
    return Neighbours(rows=rows, scores=scores)


def _tiles(blocks: Iterable[NDArray[np.floating[Any]]], dim: int) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dim:
            raise ValueError(f"a block has the shape {block.shape}, expected (n, {dim})")
        for start in range(0, len(block), _TILE_ROWS):
            yield np.ascontiguousarray(block[start : start + _TILE_ROWS], np.float32)


def _merge(
    products: NDArray[np.float32],
    start: int,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Put products (q, n) with the n rows from `start` on among the best (q, k), in place.

    Only products above the last of the best are sorted: after the first tiles, these are few.
    """
    k = rows.shape[1]
    better = products > scores[:, -1:]  # an equal one has a higher row
    if (scores[:, -1] == -np.inf).any() and products.shape[1] > k:
        products[np.isnan(products)] = -np.inf
        better &= products >= np.partition(products, -k, axis=1)[:, -k, None]
    queries, columns = np.nonzero(better)
    if not queries.size:
        return
    found = products[queries, columns]
    changed, queries, counts = np.unique(queries, return_inverse=True, return_counts=True)
    all_queries = np.concatenate([np.repeat(np.arange(len(changed)), k), queries])
    all_rows = np.concatenate([rows[changed].ravel(), columns + start])
    all_scores = np.concatenate([scores[changed].ravel(), found])
    order = np.lexsort((all_rows, -all_scores, all_queries))
    begins = np.cumsum(counts + k) - (counts + k)  # of each query, in the order
    kept = order[begins[:, None] + np.arange(k)]
    rows[changed] = all_rows[kept]
    scores[changed] = all_scores[kept]

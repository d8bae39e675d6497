"""Exact search: every query is compared with every vector, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.neighbours import Neighbours

_TILE_ROWS = 16_384  # of vectors in float32: 32 MB at D = 512
_TIED_QUERIES = 128  # whose scores with a whole tile are held: 8 MB


def exact_top_k(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[np.floating[Any]]], k: int
) -> Neighbours:
    """Return the k rows with the largest inner products: of vectors with norm 1, the cosines.

    `queries` is float32 (q, D). `blocks` are float16 or float32 (n, D), with any n; row 0 is the
    first vector of the first block. Memory holds one block, 40 MB, and 100 bytes times q times k.
    A NaN is never a neighbour.

    Raises:
        ValueError: k is below 1, or a block has another width than the queries.
        DependencyError: FAISS is not installed.
    """
    if k < 1:
        raise ValueError(f"k is {k}: expected at least 1")
    queries = np.ascontiguousarray(queries, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    start = 0
    for tile in _tiles(blocks, queries.shape[1]):
        tile_scores, tile_rows = _tile_top_k(queries, tile, k, floor=scores[:, -1])
        scores = np.concatenate([scores, tile_scores], axis=1)
        rows = np.concatenate([rows, np.where(tile_rows < 0, -1, tile_rows + start)], axis=1)
        # Earlier tiles have the lower rows and stand first: a stable sort keeps them first.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        start += len(tile)
    return Neighbours(rows=rows, scores=scores)


def _tiles(blocks: Iterable[NDArray[np.floating[Any]]], dim: int) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dim:
            raise ValueError(f"a block has the shape {block.shape}, expected (n, {dim})")
        for start in range(0, len(block), _TILE_ROWS):
            yield np.ascontiguousarray(block[start : start + _TILE_ROWS], np.float32)


def _tile_top_k(
    queries: NDArray[np.float32],
    tile: NDArray[np.float32],
    k: int,
    *,
    floor: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the scores and rows (q, k or fewer) of a tile's best, lower rows first on ties.

    FAISS keeps any of the rows that tie for place k. One place more shows such a tie; it matters
    only above `floor`, the score that a row must exceed.
    """
    faiss = load_faiss()
    width = min(k + 1, len(tile))
    scores, rows = faiss.knn(queries, tile, width, metric=faiss.METRIC_INNER_PRODUCT)
    scores[rows < 0] = -np.inf
    order = np.lexsort((rows, -scores))
    scores = np.take_along_axis(scores, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    if width > k:
        at_k = scores[:, k - 1]
        tied = np.flatnonzero((at_k == scores[:, k]) & (at_k > floor))
        for start in range(0, len(tied), _TIED_QUERIES):
            some = tied[start : start + _TIED_QUERIES]
            products = queries[some] @ tile.T
            best = np.argsort(-products, axis=1, kind="stable")[:, :k]
            rows[some, :k] = best
            scores[some, :k] = np.take_along_axis(products, best, axis=1)
    return scores[:, :k], rows[:, :k]

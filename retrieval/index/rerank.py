"""Candidates are compared exactly, and ordered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.neighbours import Neighbours

_CHUNK_BYTES = 64 << 20  # of float32 vectors at once


def rerank(
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    k: int,
    vectors: Callable[[NDArray[np.int64]], NDArray[np.float16]],
) -> Neighbours:
    """Return the best k of the candidates (q, c) of queries (q, D); -1 is no candidate.

    `vectors` returns the vectors (n, D) of rows (n,).
    """
    (count, width), dim = candidates.shape, queries.shape[1]
    faiss = load_faiss()
    decoder = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)  # NumPy is slow at it
    scores = np.full(candidates.shape, -np.inf, np.float32)
    step = max(1, _CHUNK_BYTES // (4 * dim * width))
    for start in range(0, count, step):
        rows = candidates[start : start + step]
        exact = decoder.sa_decode(vectors(np.maximum(rows, 0).ravel()).view(np.uint8))
        products = np.matmul(
            exact.reshape(*rows.shape, dim), queries[start : start + step, :, np.newaxis]
        )
        scores[start : start + step] = np.where(rows < 0, -np.inf, products[..., 0])
    return ordered(candidates, scores, k)


def ordered(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Neighbours:
    """Return the best k of each line, best first; of equal scores the lower row comes first."""
    kept = np.where(rows < 0, np.float32(-np.inf), scores)
    order = np.lexsort((rows, -kept))[:, :k]
    return Neighbours(
        rows=np.take_along_axis(rows, order, axis=1),
        scores=np.take_along_axis(kept, order, axis=1),
    )

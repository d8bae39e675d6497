"""The vectors of an exact index, in memory, where FAISS compares queries with all of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.rerank import ordered
from clipfleet.retrieval.neighbours import Neighbours

_SUM_ERROR = 1e-6  # of a cosine: FAISS sums in another order when it finds all in a range


class ExactRows:
    """Float16 vectors (n, D) of those rows of `blocks` that are `alive`.

    FAISS's codes of this kind are the float16 values themselves, so a file of their own would hold
    the vectors a second time. NumPy converts float16 33 times slower.
    """

    def __init__(
        self, blocks: Iterable[NDArray[np.float16]], alive: NDArray[np.bool_], dim: int
    ) -> None:
        faiss = load_faiss()
        self._index = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._rows = np.flatnonzero(alive)
        # Filled in place: FAISS's own way to add codes doubles their memory as they grow.
        size_bytes = len(self._rows) * dim * np.dtype(np.float16).itemsize
        self._index.codes.resize(size_bytes)
        codes = faiss.rev_swig_ptr(self._index.codes.data(), size_bytes).view(np.float16)
        vectors, start, filled = codes.reshape(-1, dim), 0, 0
        for block in blocks:
            kept = block[alive[start : start + len(block)]]
            vectors[filled : filled + len(kept)] = kept
            start, filled = start + len(block), filled + len(kept)
        self._index.ntotal = filled

    def nearest(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """Return the k nearest rows of queries (q, D).

        FAISS keeps any of the rows that tie for place k. One place more shows such a tie.
        """
        scores, found = self._index.search(queries, k + 1)
        rows = np.where(found < 0, -1, self._rows[found] if len(self._rows) else -1)
        best = ordered(rows, scores, k)
        for query in np.flatnonzero((found[:, k] >= 0) & (scores[:, k - 1] == scores[:, k])):
            self._replace_ties(best, int(query), queries[query : query + 1])
        return best

    def _replace_ties(self, best: Neighbours, query: int, vector: NDArray[np.float32]) -> None:
        """Order one query's (1, D) best rows again, among all that have at least the last score."""
        k = best.rows.shape[1]
        limit = float(best.scores[query, -1]) - _SUM_ERROR
        _, scores, found = self._index.range_search(vector, limit)
        again = ordered(self._rows[found][np.newaxis], scores[np.newaxis], k)
        best.rows[query], best.scores[query] = again.rows[0], again.scores[0]

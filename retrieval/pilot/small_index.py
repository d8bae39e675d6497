"""A stand-in for an index: each vector of a sample stands several times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.index.codes import Codes
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.index.rerank import rerank
from clipfleet.retrieval.neighbours import Neighbours

_BLOCK_ROWS = 16_384  # that are float32 while they are encoded: 32 MB at D = 512


class SmallIndex:
    """Vectors (n, D) in memory, each of which stands for `copies` rows.

    The lists are as long as those of an index of n × `copies` rows, so a search takes as long. The
    nearest vector of n is about as far away as the nearest `copies` of all rows, and all copies of
    a vector are among the candidates, or none. So with ten copies the share of queries whose
    nearest vector is found is about the recall@10 of the whole index, at the same parameters.
    """

    def __init__(self, vectors: NDArray[np.float16], codes: Codes, *, copies: int) -> None:
        """`codes` has lists without rows."""
        self._vectors = vectors
        self._codes = codes
        for start in range(0, len(vectors), _BLOCK_ROWS):
            codes.add(vectors[start : start + _BLOCK_ROWS])
        codes.repeat(copies)

    def search(
        self, queries: NDArray[np.float32], k: int, *, parameters: SearchParameters | None = None
    ) -> Neighbours:
        """Return the k nearest rows of queries (q, D); the copies are rows."""
        if parameters is None:
            raise ValueError("a pilot has no parameters of its own")
        candidates = self._codes.nearest(queries, k * parameters.rerank, parameters.probes)
        return rerank(queries, candidates, k, lambda rows: self._vectors[rows % len(self._vectors)])

"""An index of which each query's answer can be told by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.neighbours import Neighbours


class ListIndex:
    """Row r is in list r % `lists`. A search reads the first lists, as many as it has probes."""

    def __init__(self, vectors: NDArray[Any], *, lists: int = 1, dead: tuple[int, ...] = ()):
        self._vectors = vectors
        self._lists = np.arange(len(vectors)) % lists
        self.alive = np.ones(len(vectors), np.bool_)
        self.alive[list(dead)] = False
        self.passes = 0
        self.searched: list[SearchParameters | None] = []

    def search(
        self, queries: NDArray[np.float32], k: int, *, parameters: SearchParameters | None = None
    ) -> Neighbours:
        self.searched.append(parameters)
        scores = (queries @ self._vectors.T).astype(np.float32)
        probes = parameters.probes if parameters else 0
        scores[:, ~self.alive | ((self._lists >= probes) & (probes > 0))] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(scores, order, axis=1)
        rows = np.full((len(queries), k), -1, np.int64)
        best = np.full((len(queries), k), -np.inf, np.float32)
        rows[:, : order.shape[1]] = np.where(found == -np.inf, -1, order)
        best[:, : order.shape[1]] = found
        return Neighbours(rows=rows, scores=best)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        found: NDArray[np.floating[Any]] = self._vectors[rows]
        return found

    def blocks(self) -> Iterator[NDArray[np.floating[Any]]]:
        self.passes += 1
        yield from np.array_split(self._vectors, 3)


def on_a_line(count: int) -> NDArray[np.float32]:
    """Return unit vectors (count, 2); of the query (1, 0) their order is 0, 1, 2, …"""
    angles = np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

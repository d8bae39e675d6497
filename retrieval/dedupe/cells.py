"""Which rows are compared: those of one cell, and of cells beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.dedupe.rows import Rows
from clipfleet.retrieval.faiss_library import load_faiss

EXACT_ROWS = 20_000  # up to here every row is compared with every other one
_CELLS = 2  # for each root of the number of rows; with more, k-means costs more than it saves
_TRAINING_ROWS = 48  # of each cell
_ITERATIONS = 8
_BLOCK_ROWS = 4096  # read and assigned at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """The cells of each rank, int32 (n, c): its own one first, then its nearest others.

    Two rows are compared if the own cell of one is among the cells of the other.
    """

    of_rank: NDArray[np.int32]

    @property
    def count(self) -> int:
        return int(self.of_rank.max(initial=0)) + 1

    @property
    def exact(self) -> bool:
        """Whether every row is compared with every other one."""
        return self.count == 1

    def compared(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for pairs of ranks (k,), (k,) whether they are compared."""
        cells_a, cells_b = self.of_rank[a], self.of_rank[b]
        found: NDArray[np.bool_] = np.any(cells_a == cells_b[:, :1], axis=1)
        found |= np.any(cells_b == cells_a[:, :1], axis=1)
        return found

    def each(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield for each cell the ranks whose own cell it is, and those it is a near cell of."""
        own, near = self.of_rank[:, 0], self.of_rank[:, 1:]
        members = np.split(np.argsort(own, kind="stable"), self._ends(own))
        visitors = np.argsort(near, axis=None, kind="stable") // max(near.shape[1], 1)
        yield from zip(members, np.split(visitors, self._ends(near)), strict=True)

    def _ends(self, cells: NDArray[np.int32]) -> NDArray[np.int64]:
        sizes = np.bincount(cells.reshape(-1), minlength=self.count)
        return np.cumsum(sizes)[:-1]


def assign_cells(rows: Rows, *, near_cells: int, seed: int) -> Cells:
    """Return the cells of all rows; few rows have one cell.

    Raises:
        DependencyError: FAISS is not installed.
    """
    if len(rows) <= EXACT_ROWS:
        return Cells(of_rank=np.zeros((len(rows), 1), np.int32))
    centroids = _train(rows, 2 ** round(log2(_CELLS * sqrt(len(rows)))), seed)
    of_rank = np.empty((len(rows), 1 + near_cells), np.int32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        ranks = np.arange(start, min(start + _BLOCK_ROWS, len(rows)))
        cosines = rows.vectors(ranks) @ centroids.T
        for nth in range(1 + near_cells):  # FAISS takes five times the CPU time for the same
            best = cosines.argmax(axis=1)
            of_rank[ranks, nth] = best
            cosines[np.arange(len(ranks)), best] = -np.inf
    return Cells(of_rank=of_rank)


def _train(rows: Rows, cells: int, seed: int) -> NDArray[np.float32]:
    """Return the centres (cells, D) by spherical k-means over a sample of rows."""
    faiss = load_faiss()
    count = min(len(rows), _TRAINING_ROWS * cells)
    sample = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    kmeans = faiss.Kmeans(
        rows.stored.shape[1],
        cells,
        niter=_ITERATIONS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,  # FAISS would warn; the sample is what there is
        max_points_per_centroid=_TRAINING_ROWS,
    )
    kmeans.train(rows.vectors(sample))
    centroids: NDArray[np.float32] = kmeans.centroids
    return centroids

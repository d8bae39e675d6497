"""The pairs of near rows, found by plain products inside the cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.dedupe.cells import Cells
from clipfleet.retrieval.dedupe.rows import Rows

_TILE_ROWS = 2048  # squared it bounds the pairs that memory holds

Ranks = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class NearPairs:
    """The pairs of compared rows with a cosine of at least `threshold`."""

    rows: Rows
    cells: Cells
    threshold: float

    def between(
        self, some: Mask, others: Mask
    ) -> Iterator[tuple[Ranks, Ranks, NDArray[np.float32]]]:
        """Yield the pairs with one rank in `some` and one in `others`, both masks (n,).

        The pairs come in pieces: ranks (k,), ranks (k,) and their cosines (k,). Either rank may be
        the one in `some`. A pair may come twice.
        """
        rest = others & ~some
        for members, visitors in self.cells.each():
            around = np.concatenate([members, visitors])
            yield from self._products(around[some[around]], members[others[members]])
            yield from self._products(around[rest[around]], members[some[members]])

    def _products(
        self, left: Ranks, right: Ranks
    ) -> Iterator[tuple[Ranks, Ranks, NDArray[np.float32]]]:
        for start in range(0, len(left) if len(right) else 0, _TILE_ROWS):
            tile = left[start : start + _TILE_ROWS]
            vectors = self.rows.vectors(tile)
            for begin in range(0, len(right), _TILE_ROWS):
                beside = right[begin : begin + _TILE_ROWS]
                cosines = vectors @ self.rows.vectors(beside).T
                a, b = np.nonzero(cosines >= self.threshold)
                first, second = tile[a], beside[b]
                pairs = first != second
                yield first[pairs], second[pairs], cosines[a, b][pairs]

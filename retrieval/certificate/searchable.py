"""What the certificate asks of an index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.neighbours import Neighbours


class Searches(Protocol):
    """What finds the nearest rows."""

    def search(
        self, queries: NDArray[np.float32], k: int, *, parameters: SearchParameters | None = None
    ) -> Neighbours:
        """Return the k best rows that are alive, for queries (q, D)."""


class Searchable(Searches, Protocol):
    """An open index of n rows, which are numbered from 0."""

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which of the n rows a search may return; the others are tombstones."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the vectors (m, D) of m rows, in the order asked."""

    def blocks(self) -> Iterator[NDArray[np.floating[Any]]]:
        """Yield the vectors of all n rows in their order."""

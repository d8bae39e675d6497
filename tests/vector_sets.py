"""Vectors in memory that an evaluation takes as a dataset; and vectors with exact products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.model_card import ModelCard
from clipfleet.reader import ErrorRow
from tests.datasets import make_card


class HeldVectors:
    """Ids and vectors (n, D) of a tower; `failed` are ids of items without a vector."""

    def __init__(
        self,
        ids: Sequence[object],
        vectors: NDArray[np.floating],
        *,
        tower: Tower = "img",
        failed: Sequence[str] = (),
        checkpoint: str = "c",
        batch: int = 7,
    ) -> None:
        self.path = f"/held/{tower}"
        self.ids = tuple(map(str, ids))
        self.dim = vectors.shape[1]
        self.model: ModelCard = make_card(tower, dim=self.dim, checkpoint=checkpoint)
        self._vectors, self._failed, self._batch = vectors, failed, batch

    def batches(self, rows: int = 0) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
        size = min(rows or self._batch, self._batch)
        for start in range(0, len(self.ids), size):
            yield list(self.ids[start : start + size]), self._vectors[start : start + size]

    def errors(self) -> Iterator[ErrorRow]:
        for id_ in self._failed:
            yield ErrorRow(id=id_, uri=None, text="", error="e", message="m", attempt=1)


def sign_vectors(rows: int, *, dim: int = 64, seed: int) -> NDArray[np.float16]:
    """Return vectors of norm 1 with entries of one size: all products are exact, many equal."""
    bits = np.random.default_rng(seed).integers(0, 2, (rows, dim))
    vectors: NDArray[np.float16] = (np.where(bits, 1, -1) / np.sqrt(dim)).astype(np.float16)
    return vectors


def flipped(vectors: NDArray[np.float16], share: float, *, seed: int) -> NDArray[np.float16]:
    """Return the vectors with a share of their signs changed."""
    flips = np.random.default_rng(seed).random(vectors.shape) < share
    changed: NDArray[np.float16] = np.where(flips, -vectors, vectors)
    return changed

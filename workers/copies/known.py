"""Vectors that an engine process need not compute: by the SHA-256 of the bytes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from clipfleet.images import PictureRules
from clipfleet.storage.format.dataset_info import DatasetInfo
from clipfleet.workers.copies.reuse import ReusedVectors

_MAX_BYTES = 64 << 20  # of recent vectors


class KnownVectors:
    """The vectors that a process made last, and those of the dataset that it reuses, if any.

    Equal bytes are embedded once by a process, as long as their vector is among the last 64 MiB:
    32,768 vectors of 512 numbers.
    """

    def __init__(self, reused: ReusedVectors | None = None) -> None:
        self._reused = reused
        self._recent: OrderedDict[tuple[PictureRules, str], NDArray[np.float32]] = OrderedDict()

    def check(self, info: DatasetInfo) -> None:
        """Refuse to reuse vectors that are not fit for a dataset.

        Raises:
            DatasetMismatchError: They have fewer bits, or were made by other picture rules.
        """
        if self._reused is not None:
            self._reused.check(info)

    def get(self, sha256: str, rules: PictureRules) -> NDArray[np.float32] | None:
        """Return the vector (D,) of these bytes by picture rules; None if it is not known.

        Raises:
            DatasetError: A part of the reused dataset is damaged.
            StorageError: The disk did not answer.
        """
        recent = self._recent.get((rules, sha256))
        if recent is not None:
            self._recent.move_to_end((rules, sha256))
            return recent
        return self._reused.get(sha256) if self._reused is not None else None

    def add(self, sha256: str, rules: PictureRules, vector: NDArray[np.float32]) -> None:
        """Keep a new vector (D,) for later shards."""
        self._recent[rules, sha256] = vector
        if len(self._recent) * vector.nbytes > _MAX_BYTES:
            self._recent.popitem(last=False)

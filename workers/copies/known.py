"""Vectors that an engine process need not compute: by the SHA-256 of the bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from clipfleet.storage.format.dataset import Dataset
from clipfleet.workers.copies.reuse import ReusedVectors
from clipfleet.workers.copies.stored import StoredVectors, Vector

_MAX_BYTES = 64 << 20  # of the vectors that a process made or copied last
_MAX_CONTENTS = 1 << 24  # of a dataset, in 200 MB of memory
_MAX_DATASETS = 4  # whose shards a process embeds in turn


class KnownVectors:
    """The vectors that a shard of one dataset may copy.

    They are in the dataset's own parts, and in those of the dataset that it reuses, if any. The
    ones that this process made or copied last are also in memory: 64 MiB.
    """

    def __init__(self, dataset: Dataset, reused: ReusedVectors | None) -> None:
        self._sources: list[StoredVectors] = [StoredVectors(dataset, max_contents=_MAX_CONTENTS)]
        if reused is not None:
            self._sources.append(reused)
        self._recent: OrderedDict[str, Vector] = OrderedDict()

    def look(self) -> None:
        """Learn what others committed since the last look.

        Raises:
            StorageError: The disk did not answer.
        """
        for source in self._sources:
            source.look()

    def __contains__(self, sha256: str) -> bool:
        """Whether these bytes had a vector at the last look; `take` says whether they have it."""
        return sha256 in self._recent or any(sha256 in source for source in self._sources)

    def take(self, hashes: Collection[str]) -> dict[str, Vector]:
        """Return the vectors of bytes, those that there are, by SHA-256.

        Raises:
            StorageError: The disk did not answer.
        """
        found = {sha256: self._recent[sha256] for sha256 in hashes if sha256 in self._recent}
        for source in self._sources:
            found |= source.take([sha256 for sha256 in hashes if sha256 not in found])
        for sha256, vector in found.items():
            self.add(sha256, vector)
        return found

    def add(self, sha256: str, vector: Vector) -> None:
        """Keep a vector for later shards."""
        self._recent[sha256] = vector
        self._recent.move_to_end(sha256)
        while len(self._recent) * vector.nbytes > _MAX_BYTES:
            self._recent.popitem(last=False)


class Copies:
    """The known vectors of each dataset that an engine process embeds."""

    def __init__(self, reused: ReusedVectors | None = None) -> None:
        self._reused = reused
        self._known: OrderedDict[tuple[str, str], KnownVectors] = OrderedDict()

    def known(self, dataset: Dataset) -> KnownVectors:
        """Return the known vectors of a dataset, as they are now.

        Raises:
            DatasetMismatchError: The reused vectors are not fit for the dataset.
            StorageError: The disk did not answer.
        """
        if self._reused is not None:
            self._reused.check(dataset.info)
        key = dataset.root, dataset.info.created_at  # it may have been made anew
        if key not in self._known:
            self._known[key] = KnownVectors(dataset, self._reused)
        self._known.move_to_end(key)
        if len(self._known) > _MAX_DATASETS:
            self._known.popitem(last=False)
        self._known[key].look()
        return self._known[key]

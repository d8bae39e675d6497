"""Fingerprints of the items of a run, and vectors that are copied between items of equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Fingerprint, Item
from clipfleet.storage.format.dataset import DatasetInfo
from clipfleet.storage.format.parts import Embedded, Failure
from clipfleet.workers.copies.reuse import ReusedVectors
from clipfleet.workers.images.decoders import Outcome


class Fingerprints:
    """What one run of an embedder learns of its items' bytes; their ids are unique.

    With `sha256`, only the first item with some bytes is embedded, and none whose bytes `known`
    has. The others are copies.
    """

    def __init__(self, *, sha256: bool, known: ReusedVectors | None = None) -> None:
        self.sha256 = sha256
        self._known = known
        self._found: dict[str, Fingerprint] = {}  # by id
        self._first: dict[str, str] = {}  # SHA-256 → the id that is embedded
        self._vectors: dict[str, NDArray[np.float32]] = {}  # SHA-256 → a known vector
        self._copies: dict[str, tuple[int, int]] = {}  # id → the picture's size

    @classmethod
    def of(cls, info: DatasetInfo, known: ReusedVectors | None) -> Fingerprints | None:
        """Return what finds the fingerprints of a shard's items; None if its part has none.

        Raises:
            DatasetMismatchError: The known vectors are of another dtype.
        """
        if not info.columns:
            return None
        if "content_hash" not in info.columns:
            return cls(sha256=False)
        if known is not None:
            known.check_dtype(info)
        return cls(sha256=True, known=known)

    def pictures(
        self, items: Sequence[Item], outcomes: Generator[Outcome, None, None]
    ) -> Generator[Outcome, None, None]:
        """Yield the outcomes; a copy is freed, and becomes a failure until `finish`."""
        with closing(outcomes):
            for item, outcome in zip(items, outcomes, strict=True):
                if isinstance(outcome, Failure) or not self._is_copy(item, outcome.fingerprint):
                    yield outcome
                    continue
                self._copies[item.id] = outcome.size
                outcome.free()
                yield Failure(item=item, error="", message="a copy")

    def texts(self, items: Sequence[Item]) -> list[Item]:
        """Return the items that are no copies."""
        if not self.sha256:
            return list(items)
        first = []
        for item in items:
            data = (item.text or "").encode()
            found = Fingerprint(len(data), 0, hashlib.sha256(data).hexdigest())
            if self._is_copy(item, found):
                self._copies[item.id] = (0, 0)
            else:
                first.append(item)
        return first

    def known_texts(self, items: Sequence[Item]) -> list[Item]:
        """Return the items whose vectors were known before the run."""
        return [
            item
            for item in items
            if item.id in self._copies and self._found[item.id].sha256 in self._vectors
        ]

    def finish(self, items: Sequence[Item], embedded: Embedded) -> Embedded:
        """Return the results of all items, in order: copies have the vectors of their bytes.

        A copy of an item that failed after its bytes were read fails with it.
        """
        rows = {item.id: row for row, item in enumerate(embedded.items)}
        failures = {failure.item.id: failure for failure in embedded.failures}
        good: list[Item] = []
        failed: list[Failure] = []
        vectors: list[NDArray[np.float32]] = []
        sizes: list[tuple[int, int]] = []
        cut = set(embedded.cut)
        for item in items:
            is_copy = item.id in self._copies
            sha256 = self._found[item.id].sha256 if is_copy else ""
            source = self._first.get(sha256, "") if is_copy else item.id
            if source not in rows and sha256 not in self._vectors:
                failed.append(replace(failures[source], item=item))
                continue
            good.append(item)
            vectors.append(
                self._vectors[sha256] if sha256 in self._vectors else embedded.vectors[rows[source]]
            )
            if embedded.sizes is not None:
                sizes.append(self._copies[item.id] if is_copy else embedded.sizes[rows[source]])
            if source in cut:
                cut.add(item.id)
        return replace(
            embedded,
            items=good,
            vectors=np.array(vectors, np.float32).reshape(-1, embedded.vectors.shape[1]),
            sizes=None if embedded.sizes is None else sizes,
            failures=failed,
            cut=frozenset(cut),
            fingerprints=[self._found[item.id] for item in good],
            copied=sum(item.id in self._copies for item in good),
        )

    def _is_copy(self, item: Item, found: Fingerprint) -> bool:
        self._found[item.id] = found
        sha256 = found.sha256
        if not sha256:
            return False
        if sha256 not in self._first and sha256 not in self._vectors:
            vector = self._known.get(sha256) if self._known is not None else None
            if vector is None:
                self._first[sha256] = item.id
                return False
            self._vectors[sha256] = vector
        return True

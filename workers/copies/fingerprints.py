"""Fingerprints of the items of a run, and vectors that are copied between items of equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Fingerprint, Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.workers.copies.known import Copies, KnownVectors
from clipfleet.workers.copies.stored import Vector
from clipfleet.workers.images.decoders import Outcome
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.input_chunks import Decoded


class Fingerprints:
    """What one run of an embedder learns of its items' bytes; their ids are unique.

    With `sha256`, only the first item with some bytes is embedded, and none whose bytes `known`
    has. The others are copies. New vectors become known.
    """

    def __init__(self, *, sha256: bool, known: KnownVectors | None = None) -> None:
        self.sha256 = sha256
        self._known = known
        self._found: dict[str, Fingerprint] = {}  # by id
        self._first: dict[str, str] = {}  # SHA-256 → the id that is embedded
        self._stored: set[str] = set()  # SHA-256 of bytes that have a known vector
        self._gone: set[str] = set()  # … that had one until it was to be copied
        self._vectors: dict[str, Vector] = {}  # SHA-256 → a known vector, after `take`
        self._copies: dict[str, Decoded | None] = {}  # id → what is known of a picture

    @classmethod
    def of(cls, dataset: Dataset, copies: Copies) -> Fingerprints | None:
        """Return what finds the fingerprints of a shard's items; None if its part has none.

        Raises:
            DatasetMismatchError: The reused vectors are not fit for the dataset.
            StorageError: The disk did not answer.
        """
        if not dataset.info.columns:
            return None
        if "content_hash" not in dataset.info.columns:
            return cls(sha256=False)
        return cls(sha256=True, known=copies.known(dataset))

    def pictures(
        self, items: Sequence[Item], outcomes: Generator[Outcome, None, None]
    ) -> Generator[Outcome, None, None]:
        """Yield the outcomes; a copy is freed, and becomes a failure until `finish`."""
        with closing(outcomes):
            for item, outcome in zip(items, outcomes, strict=True):
                if isinstance(outcome, Failure) or not self._is_copy(item, outcome.fingerprint):
                    yield outcome
                    continue
                self._copies[item.id] = Decoded.of(outcome)
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
                self._copies[item.id] = None
            else:
                first.append(item)
        return first

    def known_texts(self, items: Sequence[Item]) -> list[Item]:
        """Return the items whose vectors were known before the run."""
        return [
            item
            for item in items
            if item.id in self._copies and self._found[item.id].sha256 in self._stored
        ]

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Take the known vectors of the copies; return the items whose vectors are gone meanwhile.

        Their part was replaced or deleted. They are to be embedded in a second run.

        Raises:
            StorageError: The disk did not answer.
        """
        if self._known is None:
            return []
        self._vectors = self._known.take(self._stored)
        self._gone = self._stored - self._vectors.keys()
        self._stored -= self._gone
        copies = [item for item in items if item.id in self._copies]
        lost = [item for item in copies if self._found[item.id].sha256 in self._gone]
        for item in lost:
            del self._copies[item.id]
        return lost

    def finish(self, items: Sequence[Item], embedded: Embedded) -> Embedded:
        """Return the results of all items, in order: copies have the vectors of their bytes.

        A copy of an item that failed after its bytes were read fails with it.
        """
        self._remember(embedded)
        has_copies = self._copies or self._gone
        whole = self._with_copies(items, embedded) if has_copies else embedded
        fingerprints = [self._found[item.id] for item in whole.items]
        return replace(whole, fingerprints=fingerprints)

    def _remember(self, embedded: Embedded) -> None:
        if self._known is not None:
            for item, vector in zip(embedded.items, embedded.vectors, strict=True):
                self._known.add(self._found[item.id].sha256, vector.copy())

    def _with_copies(self, items: Sequence[Item], embedded: Embedded) -> Embedded:
        rows = {item.id: row for row, item in enumerate(embedded.items)}
        failures = {failure.item.id: failure for failure in embedded.failures}
        good: list[Item] = []
        failed: list[Failure] = []
        vectors: list[NDArray[np.float32]] = []
        sizes: list[tuple[int, int]] = []
        for item in items:
            sha256 = self._found[item.id].sha256 if item.id in self._copies else ""
            source = self._first.get(sha256, item.id)
            if sha256 in self._vectors:
                vectors.append(self._vectors[sha256])
            elif source in rows:
                vectors.append(embedded.vectors[rows[source]])
            else:
                failed.append(replace(failures[source], item=item))
                continue
            good.append(item)
            if embedded.sizes is not None:
                copy = self._copies.get(item.id)
                sizes.append(copy.size if copy else embedded.sizes[rows[item.id]])
        copies = [item for item in good if item.id in self._copies]
        return replace(
            embedded,
            items=good,
            vectors=np.array(vectors, np.float32).reshape(-1, embedded.vectors.shape[1]),
            sizes=None if embedded.sizes is None else sizes,
            failures=failed,
            cut=self._and_copies(embedded.cut, copies),
            transparent=self._and_copies(embedded.transparent, copies, Remark.TRANSPARENT),
            without_end=self._and_copies(embedded.without_end, copies, Remark.WITHOUT_END),
            copied=len(copies),
        )

    def _and_copies(
        self, ids: frozenset[str], copies: Sequence[Item], remark: Remark = Remark.NONE
    ) -> frozenset[str]:
        """Return ids, with those of the copies of their bytes, and of copies with the remark."""
        firsts = {self._found[id_].sha256 for id_ in ids if id_ in self._found}
        return ids | {
            copy.id
            for copy in copies
            if self._found[copy.id].sha256 in firsts or self._has(copy, remark)
        }

    def _has(self, copy: Item, remark: Remark) -> bool:
        decoded = self._copies[copy.id]
        return decoded is not None and bool(decoded.remark & remark)

    def _is_copy(self, item: Item, found: Fingerprint) -> bool:
        self._found[item.id] = found
        sha256 = found.sha256
        if not sha256:
            return False
        if sha256 in self._first or sha256 in self._stored:
            return True
        if self._known is not None and sha256 in self._known and sha256 not in self._gone:
            self._stored.add(sha256)
            return True
        self._first[sha256] = item.id
        return False

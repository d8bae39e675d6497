"""What an evaluation reads: ids and unit vectors, of a dataset or of texts embedded just now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import ItemError, UsageError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.reader import ErrorRow
from clipfleet.retrieval.index.card import check_comparable
from clipfleet.storage.sources.base import Source

BATCH_ROWS = 65_536

Vectors = NDArray[np.floating[Any]]
Encode = Callable[[Sequence[str]], NDArray[np.float32]]  # from n texts to (n, D)

_TEXTS = 256  # that are embedded at once


class VectorSet(Protocol):
    """Ids and vectors in one order, which may be read again: `clipfleet.Dataset` is one."""

    @property
    def path(self) -> str: ...
    @property
    def model(self) -> ModelCard: ...
    @property
    def dim(self) -> int: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[list[str], Vectors]]: ...
    def errors(self) -> Iterator[ErrorRow]: ...


class EmbeddedTexts:
    """The texts of a source, embedded into memory when they are first read: float32 (n, D).

    A text that `encode` refuses with ItemError has a row of `errors`.
    """

    def __init__(self, source: Source, *, path: str, model: ModelCard, encode: Encode) -> None:
        self.path, self.model, self.dim = path, model, model.dim
        self._source, self._encode = source, encode

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the texts that have a vector, in the order of the source."""
        return self._embedded[0]

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors (k, D), as `clipfleet.Dataset.batches` does."""
        ids, vectors, _ = self._embedded
        for start in range(0, len(ids), rows):
            yield list(ids[start : start + rows]), vectors[start : start + rows]

    def errors(self) -> Iterator[ErrorRow]:
        """Yield the texts that have no vector."""
        return iter(self._embedded[2])

    @cached_property
    def _embedded(self) -> tuple[tuple[str, ...], Vectors, list[ErrorRow]]:
        items, errors = list(self._source), list[ErrorRow]()
        chunks = [items[start : start + _TEXTS] for start in range(0, len(items), _TEXTS)]
        pieces = [np.empty((0, self.dim), np.float32), *(self._vectors(c, errors) for c in chunks)]
        failed = {row.id for row in errors}
        return (
            tuple(item.id for item in items if item.id not in failed),
            np.concatenate(pieces),
            errors,
        )

    def _vectors(self, items: Sequence[Item], errors: list[ErrorRow]) -> NDArray[np.float32]:
        """Return the vectors of items; halve them until one that has none is alone."""
        try:
            return self._encode([item.text or "" for item in items])
        except ItemError as error:
            if len(items) == 1:
                errors.append(_error_row(items[0], error))
                return np.empty((0, self.dim), np.float32)
        middle = len(items) // 2
        halves = (items[:middle], items[middle:])
        return np.concatenate([self._vectors(half, errors) for half in halves])


def _error_row(item: Item, error: ItemError) -> ErrorRow:
    return ErrorRow(
        id=item.id, uri=None, text=item.text, error=error.code, message=str(error), attempt=1
    )


def check_towers(images: VectorSet, texts: VectorSet) -> None:
    """Refuse vectors that are not those of the two towers of one model.

    Raises:
        UsageError: A tower is another one.
        DatasetMismatchError: The models are not comparable, see `check_comparable`.
    """
    for name, tower, given in (("images", "img", images), ("texts", "txt", texts)):
        if given.model.tower != tower:
            raise UsageError(
                f"the {name} are to be vectors of the {tower} tower, and {given.path} has vectors "
                f"of the {given.model.tower} tower: name another dataset"
            )
    check_comparable(images.path, images.model, f"those of {texts.path}", texts.model)

"""What an evaluation reads: ids and unit vectors, of a dataset or of texts embedded just now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.reader import ErrorRow
from clipfleet.storage.sources.base import Source

BATCH_ROWS = 65_536

Vectors = NDArray[np.floating[Any]]
Encode = Callable[[Sequence[Item]], tuple[Vectors, Sequence[ErrorRow]]]
"""From n texts to float32 (n - m, D), in their order, and the m texts that have no vector."""

_TEXTS = 4096  # that are embedded at once


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
    """The texts of a source, embedded into memory: float32 (n, D)."""

    def __init__(self, source: Source, *, path: str, model: ModelCard, encode: Encode) -> None:
        self.path, self.model, self.dim = path, model, model.dim
        items = list(source)
        ids: list[str] = []
        vectors: list[Vectors] = [np.empty((0, self.dim), np.float32)]
        self._errors: list[ErrorRow] = []
        for start in range(0, len(items), _TEXTS):
            some = items[start : start + _TEXTS]
            found, errors = encode(some)
            failed = {row.id for row in errors}
            ids += [item.id for item in some if item.id not in failed]
            vectors.append(found)
            self._errors += errors
        self.ids = tuple(ids)
        self._vectors = np.concatenate(vectors)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[list[str], Vectors]]:
        """Yield ids and vectors (k, D), as `clipfleet.Dataset.batches` does."""
        for start in range(0, len(self.ids), rows):
            yield list(self.ids[start : start + rows]), self._vectors[start : start + rows]

    def errors(self) -> Iterator[ErrorRow]:
        """Yield the texts that have no vector."""
        return iter(self._errors)


def check_towers(images: VectorSet, texts: VectorSet) -> None:
    """Refuse vectors that are not those of the two towers of one model.

    Raises:
        UsageError: A tower is another one, or the checkpoints or widths differ.
    """
    for name, tower, given in (("images", "img", images), ("texts", "txt", texts)):
        if given.model.tower != tower:
            raise UsageError(
                f"the {name} are to be vectors of the {tower} tower, and {given.path} has vectors "
                f"of the {given.model.tower} tower: name another dataset"
            )
    left, right = images.model, texts.model
    if (left.checkpoint_sha256, images.dim) != (right.checkpoint_sha256, texts.dim):
        raise UsageError(
            f"{images.path} ({_described(images)}) and {texts.path} ({_described(texts)}) are of "
            "two models, so their cosines mean nothing: embed one of them with the other's model"
        )


def _described(vectors: VectorSet) -> str:
    card = vectors.model
    return f"{card.architecture}, checkpoint {card.checkpoint_sha256[:12]}, width {vectors.dim}"

"""The recall gate: an engine must find the neighbours that its float32 reference finds.

A cosine says how far vectors moved. The gate says what that does to a search among the user's own
items: of each item's nearest neighbours, how many stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.convert.parity import Features
from clipfleet.errors import ItemError, SourceError, VerificationError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, Parity
from clipfleet.workers.engines.base import Engine, l2_normalise
from clipfleet.workers.images.decode import read_image
from clipfleet.workers.images.preprocess import preprocess_batch
from clipfleet.workers.text.tokenizer import Tokenizer

NEIGHBOURS = 10  # of each item

_BATCH = 32  # items in memory

Run = Callable[[NDArray[Any]], Features]  # inputs (n, …) to features float32 (n, D)
Check = Callable[[Engine, Parity], Parity]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate: the sample of each tower, and the share of neighbours that an engine must keep.

    `overlap` takes two sets of unit vectors float32 (n, D) of the same items, and the number k of
    neighbours. It returns the mean share of an item's k neighbours that both sets agree on.
    """

    samples: Mapping[Tower, Sequence[Item]]
    min_overlap: float
    overlap: Callable[[Features, Features, int], float]


def gate_check(gate: Gate | None, tower: Tower, size: int, reference: Run) -> Check:
    """Return what adds an engine's overlap with `reference` to its parity.

    `size` is the side of the tower's pictures, or the length of its texts. Without a gate, or
    without a sample of this tower, the parity stays as it is.

    Raises:
        SourceError: An item of the sample cannot be read.
    """
    items = gate.samples.get(tower, ()) if gate is not None else ()
    if gate is None or not items:
        return _pass
    expected = _vectors(items, tower, size, reference)

    def check(engine: Engine, parity: Parity) -> Parity:
        found = _vectors(items, tower, size, engine)
        if not np.isfinite(found).all():
            raise VerificationError(
                f"{engine.card.engine} gives items of the gate's sample no vector; it was not kept"
            )
        overlap = gate.overlap(found, expected, NEIGHBOURS)
        if overlap < gate.min_overlap:
            raise VerificationError(
                f"{engine.card.engine} finds other neighbours than {parity.reference}: of the "
                f"{NEIGHBOURS} nearest of each of {len(items)} items it keeps {overlap:.4f}, "
                f"below --min-overlap {gate.min_overlap:g}; it was not kept"
            )
        return replace(parity, overlap=overlap, overlap_items=len(items))

    return check


def has_passed(gate: Gate | None, card: ModelCard) -> bool:
    """Return whether an engine's card has the overlap that a gate demands of its tower, if any."""
    if gate is None or not gate.samples.get(card.tower):
        return True
    overlap = card.parity.overlap if card.parity else None
    return overlap is not None and overlap >= gate.min_overlap


def _pass(_: Engine, parity: Parity) -> Parity:
    return parity


def _vectors(items: Sequence[Item], tower: Tower, size: int, run: Run) -> Features:
    """Return the unit vectors of a sample, float32 (n, D); memory holds one batch of inputs."""
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    inputs = _inputs(tower, size)
    return np.concatenate([l2_normalise(run(inputs(batch))) for batch in batches])


def _inputs(tower: Tower, size: int) -> Callable[[Sequence[Item]], NDArray[Any]]:
    """Return what makes float32 (n, 3, size, size) pixels, or int64 (n, size) ids, of n items."""
    if tower == "img":
        return lambda items: preprocess_batch(_pictures(items), size)
    tokenizer = Tokenizer()
    return lambda items: tokenizer.encode([str(item.text) for item in items], size)


def _pictures(items: Sequence[Item]) -> list[Image.Image]:
    pictures = []
    for item in items:
        try:
            pictures.append(read_image(item)[0])
        except ItemError as error:  # noqa: PERF203 - it names the item
            raise SourceError(
                f"picture {item.id!r} of the gate's sample cannot be read ({error}): take it out"
            ) from error
    return pictures

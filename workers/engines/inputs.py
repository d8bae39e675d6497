"""What every engine does with its inputs: check them against the card, cut and pad batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipfleet.card import ModelCard
from clipfleet.errors import EngineError
from workers.engines.base import Array


def checked_inputs(inputs: Array, card: ModelCard) -> Array:
    """Return (n, …) inputs in the dtype of the card's input (int64 ids may become int32).

    Raises:
        EngineError: The inputs have another shape, or numbers of another kind.
    """
    spec = card.input
    wanted = np.dtype(spec.dtype)
    fits = inputs.ndim == len(spec.shape) and all(
        size in (None, given) for size, given in zip(spec.shape[1:], inputs.shape[1:], strict=True)
    )
    if not fits or inputs.dtype.kind != wanted.kind:
        raise EngineError(
            f"inputs are {inputs.dtype} {inputs.shape}: the {card.tower} engine {card.engine} "
            f"takes {spec.dtype} (n, {', '.join(map(str, spec.shape[1:]))}) as {spec.name!r}"
        )
    return np.ascontiguousarray(inputs, dtype=wanted)


def batches(inputs: Array, size: int, *, padded: bool) -> Iterator[tuple[Array, int]]:
    """Yield runs of up to `size` inputs with their count; `padded` repeats the last to `size`."""
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        count = len(batch)
        if padded and count < size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
        yield batch, count

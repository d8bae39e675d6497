"""What every engine does with its inputs: check them against the card, cut and pad batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipfleet.errors import EngineError
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.workers.engines.base import Array


def checked_inputs(inputs: Array, card: ModelCard) -> Array:
    """Return (n, …) inputs in the dtype of the card's input (int64 ids may become int32).

    Raises:
        EngineError: The inputs have another shape, or numbers of another kind.
    """
    check_fits(inputs.shape, inputs.dtype, card.input, taker=f"{card.tower} engine {card.engine}")
    return np.ascontiguousarray(inputs, dtype=np.dtype(card.input.dtype))


def check_fits(shape: Sequence[int], dtype: np.dtype[Any], spec: TensorSpec, *, taker: str) -> None:
    """Check that inputs of a shape and dtype are those of a spec, or may become them.

    Raises:
        EngineError: The shape is another, or the numbers are of another kind.
    """
    fits = len(shape) == len(spec.shape) and all(
        size in (None, given) for size, given in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits or dtype.kind != np.dtype(spec.dtype).kind:
        raise EngineError(
            f"inputs are {dtype} {tuple(shape)}: the {taker} "
            f"takes {spec.dtype} (n, {', '.join(map(str, spec.shape[1:]))}) as {spec.name!r}"
        )


def batches(inputs: Array, size: int, *, padded: bool) -> Iterator[tuple[Array, int]]:
    """Yield runs of up to `size` inputs with their count; `padded` repeats the last to `size`."""
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        count = len(batch)
        if padded and count < size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
        yield batch, count

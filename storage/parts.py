"""Parts: the Parquet files that hold a shard's vectors, and the errors tables beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.jobs import Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An item that has no vector, and why; `error` is one of `clipfleet.jobs.ERROR_CODES`."""

    item: Item
    error: str
    message: str
    attempt: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What a run of items became: every item is in `items` or in `failures`, in order.

    `vectors` is float32 (len(items), D) with L2 norm 1. `sizes` are the images' original
    (width, height) in pixels, None for texts.
    """

    items: list[Item]
    vectors: NDArray[np.float32]
    sizes: list[tuple[int, int]] | None
    failures: list[Failure]

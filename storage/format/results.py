"""What a shard became: vectors and failures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Fingerprint, Item
from clipfleet.storage.format.stage_seconds import StageSeconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An item without a vector; `error` is one of `clipfleet.error_codes.ERROR_CODES`."""

    item: Item
    error: str
    message: str
    attempt: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The results of embedding items: every item is in `items` or in `failures`, in order.

    `vectors` is float32 (len(items), D) with L2 norms of 1. `sizes` are the images' original
    (width, height) in pixels, None for texts. `retries` names the parts in which these items were
    failures before, `replaced` those in which they have vectors of earlier content. `cut` are the
    ids of texts longer than the model's context length: only their beginnings were embedded.
    `transparent` are the ids of images with a transparent pixel, `without_end` those of JPEG files
    that lack their ends.
    `fingerprints` are those of the items, None if the dataset has no column of them. `copied`
    counts the vectors that are copies of those of items with equal bytes.
    """

    items: list[Item]
    vectors: NDArray[np.float32]
    sizes: list[tuple[int, int]] | None
    failures: list[Failure]
    retries: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    cut: frozenset[str] = frozenset()
    transparent: frozenset[str] = frozenset()
    without_end: frozenset[str] = frozenset()
    fingerprints: list[Fingerprint] | None = None
    copied: int = 0
    seconds: StageSeconds | None = None  # None: nobody measured them

"""The overlap of neighbours: do two spaces put the same items side by side?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.exact import exact_top_k

Vectors = NDArray[np.floating[Any]]


def top_k_overlap(a: Vectors, b: Vectors, k: int) -> float:
    """Return the mean share of the k nearest neighbours that n items have in both spaces, 0 to 1.

    `a` (n, D) and `b` (n, E) are unit vectors of the same n items. An item is no neighbour of
    itself. Below k + 1 items, all others are neighbours, and the overlap is 1.

    Raises:
        ValueError: The numbers of items differ, or are below 2, or k is below 1.
    """
    if len(a) != len(b) or len(a) < 2 or k < 1:
        raise ValueError(
            f"{len(a)} and {len(b)} vectors, k {k}: expected 2 or more, of the same items, and a k "
            "of 1 or more"
        )
    own = np.arange(len(a))
    found = (exact_top_k(v.astype(np.float32), [v], k + 1).rows for v in (a, b))
    return mean_overlap(*(without_own(rows, own, k) for rows in found))


def without_own(rows: NDArray[np.int64], own: NDArray[np.int64], k: int) -> list[list[int]]:
    """Return the first k of the rows (q, k + 1) found for queries, without their own rows (q,)."""
    return [
        [row for row in found if row not in (item, -1)][:k]
        for found, item in zip(rows.tolist(), own.tolist(), strict=True)
    ]


def mean_overlap(a: Sequence[Sequence[Any]], b: Sequence[Sequence[Any]]) -> float:
    """Return the mean share of the neighbours in `a` that are in `b` too."""
    shares = [len({*one} & {*other}) / len(one) for one, other in zip(a, b, strict=True)]
    return float(np.mean(shares))

"""From the outcomes and features of items to their results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import NON_FINITE
from clipfleet.items import Item
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.workers.engines.base import l2_normalise
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.input_chunks import Decoded, Outcome, TextFit


def normalised(
    items: Sequence[Item], outcomes: list[Outcome], features: NDArray[np.float32]
) -> tuple[NDArray[np.float32], list[Outcome]]:
    """Return unit vectors (k, D), and the items' outcomes with a failure for each bad feature."""
    vectors = l2_normalise(features)  # float32 (k, D), NaN without a direction
    bad = np.isnan(vectors[:, 0])
    if not bad.any():
        return vectors, outcomes
    return vectors[~bad], _outcomes(items, outcomes, features, bad)


def _outcomes(
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    features: NDArray[np.float32],
    bad: NDArray[np.bool_],
) -> list[Outcome]:
    """Return the items' outcomes, with a failure for each bad row of the features (k, D)."""
    rows = iter(zip(features, bad, strict=True))
    found: list[Outcome] = []
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Failure):
            found.append(outcome)
            continue
        row, is_bad = next(rows)
        found.append(_non_finite(item, row) if is_bad else outcome)
    return found


def _non_finite(item: Item, features: NDArray[np.float32]) -> Failure:
    bad = int((~np.isfinite(features)).sum())
    reason = (
        f"{bad} of its {len(features)} numbers are NaN or infinite" if bad else "it is all zeros"
    )
    return Failure(
        item=item, error=NON_FINITE, message=f"the model's vector has no direction: {reason}"
    )


def embedded_of(
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    vectors: NDArray[np.float32],
    *,
    has_sizes: bool,
) -> Embedded:
    """Return the results of items; `vectors` (k, D) are of those whose outcome is no failure."""
    pairs = list(zip(items, outcomes, strict=True))
    return Embedded(
        items=[item for item, outcome in pairs if not isinstance(outcome, Failure)],
        vectors=vectors,
        sizes=[outcome.size for outcome in outcomes if isinstance(outcome, Decoded)]
        if has_sizes
        else None,
        failures=[outcome for outcome in outcomes if isinstance(outcome, Failure)],
        cut=frozenset(item.id for item, outcome in pairs if outcome is TextFit.CUT),
        transparent=_remarked(pairs, Remark.TRANSPARENT),
        without_end=_remarked(pairs, Remark.WITHOUT_END),
    )


def _remarked(pairs: Sequence[tuple[Item, Outcome]], remark: Remark) -> frozenset[str]:
    """Return the ids of the images with a remark."""
    return frozenset(
        item.id
        for item, outcome in pairs
        if isinstance(outcome, Decoded) and remark in outcome.remark
    )


def joined(first: Embedded, second: Embedded) -> Embedded:
    """Return the results of two runs as one; the order of the items is that of the runs."""
    return Embedded(
        items=first.items + second.items,
        vectors=np.concatenate([first.vectors, second.vectors]),
        sizes=None if first.sizes is None else first.sizes + (second.sizes or []),
        failures=first.failures + second.failures,
        cut=first.cut | second.cut,
        transparent=first.transparent | second.transparent,
        without_end=first.without_end | second.without_end,
    )

"""A run of items through an engine: made ready, computed, normalised, each with its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import ItemError
from clipfleet.jobs import NON_FINITE, Item
from storage.parts import Embedded, Failure
from workers.engines.base import Engine
from workers.inputs import Chunk, Fill, Outcome, Words, chunks
from workers.normalise import l2_normalise

Progress = Callable[[], None]  # called as items get done, from any thread


# Says that the engine has these items, for as long as it has; it may refuse one that is alone.
Held = Callable[[Sequence[Item]], AbstractContextManager[None]]


def untold() -> None:
    """Tell nobody of progress."""


def unheld(_: Sequence[Item]) -> AbstractContextManager[None]:
    """Tell nobody which items the engine has."""
    return nullcontext()


def embed(
    items: Sequence[Item],
    engine: Engine,
    *,
    size: int,
    fill: Fill,
    pool: ThreadPoolExecutor,
    progress: Progress = untold,
    held: Held = unheld,
) -> Embedded:
    """Return what became of `items`: for each a vector or a failure, in order.

    `fill` makes the engine's inputs of `size` items at a time; `pool` runs it for some while
    the engine runs others, after each of which it calls `progress`.

    Raises:
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    vectors = np.empty((len(items), engine.card.dim), dtype=np.float32)
    outcomes: list[Outcome] = []
    kept = 0
    with closing(chunks(items, engine, size=size, fill=fill, pool=pool)) as ready:
        for chunk in ready:
            try:
                with held(chunk.items):
                    features = engine(chunk.inputs)  # float32 (k, D)
            except ItemError as error:  # a careful engine's, whose chunk is one item
                told = str(error)
                outcomes += [Failure(item=i, error=error.code, message=told) for i in chunk.items]
                progress()
                continue
            normalised = l2_normalise(features)  # float32 (k, D), NaN where there is no direction
            bad = np.isnan(normalised[:, 0])
            outcomes += _outcomes(chunk, features, bad)
            good = normalised[~bad]
            vectors[kept : kept + len(good)] = good
            kept += len(good)
            del chunk  # or its memory, which may be locked, could not take the next one
            progress()
    return _embedded(items, outcomes, vectors[:kept], has_sizes=engine.card.tower == "img")


def _outcomes(chunk: Chunk, features: NDArray[np.float32], bad: NDArray[np.bool_]) -> list[Outcome]:
    """Return the chunk's outcomes, with a failure for each of the k features that is bad."""
    rows = iter(zip(features, bad, strict=True))
    outcomes: list[Outcome] = []
    for item, outcome in zip(chunk.items, chunk.outcomes, strict=True):
        if isinstance(outcome, Failure):
            outcomes.append(outcome)
            continue
        row, is_bad = next(rows)
        outcomes.append(_non_finite(item, row) if is_bad else outcome)
    return outcomes


def _non_finite(item: Item, features: NDArray[np.float32]) -> Failure:
    bad = int((~np.isfinite(features)).sum())
    what = f"{bad} of its {len(features)} numbers are NaN or infinite" if bad else "it is all zeros"
    return Failure(
        item=item, error=NON_FINITE, message=f"the model's vector has no direction: {what}"
    )


def _embedded(
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    vectors: NDArray[np.float32],
    *,
    has_sizes: bool,
) -> Embedded:
    pairs = list(zip(items, outcomes, strict=True))
    return Embedded(
        items=[item for item, outcome in pairs if not isinstance(outcome, Failure)],
        vectors=vectors,
        sizes=[outcome for outcome in outcomes if isinstance(outcome, tuple)]
        if has_sizes
        else None,
        failures=[outcome for outcome in outcomes if isinstance(outcome, Failure)],
        cut=frozenset(item.id for item, outcome in pairs if outcome is Words.CUT),
    )

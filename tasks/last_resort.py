"""The last resort: what becomes of items on which the engine fails again and again.

They came singly, and no plan has them; tried for ever, they would take the place of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clipfleet.errors import GpuLostError, UsageError
from clipfleet.jobs import ENGINE_FAILED, Item
from storage.parts import Embedded, Failure
from tasks.retry import MAX_ATTEMPTS, TRANSIENT, reason_of

if TYPE_CHECKING:
    from workers.pipeline import Embedder

_NO_REASON = "the process that embedded it was killed, or ran past the deadline"


def embed_at_last(items: Sequence[Item], embedder: Embedder, failed_alone: int) -> Embedded:
    """Embed the items of a message that failed so often by itself.

    From `MAX_ATTEMPTS` on each item by itself, so that only those on which the engine fails
    become failures; if that ends the process, none is tried any more.
    """
    if failed_alone < MAX_ATTEMPTS:
        return embedder.embed(items)
    nothing = embedder.embed([])
    if failed_alone > MAX_ATTEMPTS:
        return replace(nothing, failures=[_failure(item, _NO_REASON) for item in items])
    return _joined([nothing, *(_embed_one(item, embedder, nothing) for item in items)])


def _embed_one(item: Item, embedder: Embedder, nothing: Embedded) -> Embedded:
    try:
        return embedder.embed([item])
    except (*TRANSIENT, UsageError, GpuLostError):  # no fault of the item's
        raise
    except Exception as error:  # noqa: BLE001 - whatever an engine's runtime raises
        return replace(nothing, failures=[_failure(item, reason_of(error))])


def _failure(item: Item, reason: str) -> Failure:
    return Failure(item=item, error=ENGINE_FAILED, message=reason, attempt=MAX_ATTEMPTS)


def _joined(runs: Sequence[Embedded]) -> Embedded:
    sizes = [size for run in runs for size in run.sizes or []]
    return Embedded(
        items=[item for run in runs for item in run.items],
        vectors=np.concatenate([run.vectors for run in runs]),  # float32 (n, D)
        sizes=None if runs[0].sizes is None else sizes,
        failures=[failure for run in runs for failure in run.failures],
    )

"""The recall gate of `--decode gpu`: the GPU's pictures must have the neighbours of the exact ones.

As the gate of conversions (`convert/gate.py`), on the user's own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipfleet.errors import SourceError, UsageError
from clipfleet.items import Item
from clipfleet.retrieval.evaluation.overlap import top_k_overlap
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Embedded
from clipfleet.workers.embedder import Embedder

NEIGHBOURS = 10  # of each image


def check_decoder(
    sample: Sequence[Item], model: Path, *, min_overlap: float, settings: Settings
) -> float:
    """Return the share of neighbours that images keep when the GPU decodes them.

    The engine of the card `model` is loaded into this process, with `settings.decode`.

    Raises:
        UsageError: The share is below `min_overlap`.
        SourceError: An image of the sample cannot be embedded.
        EngineError: The engine does not load, or fails.
    """
    own = settings.model_copy(update={"model": str(model), "tower": "img"})
    with Embedder.from_settings(own) as embedder:
        return compare_decoders(sample, embedder, min_overlap=min_overlap)


def compare_decoders(sample: Sequence[Item], embedder: Embedder, *, min_overlap: float) -> float:
    """Return the share of neighbours that images keep, embedded as set and exactly.

    Raises:
        UsageError, SourceError, EngineError: As in `check_decoder`.
    """
    found, exact = embedder.embed(sample), embedder.embed(sample, exact=True)
    for embedded in (found, exact):
        _check_whole(embedded)
    overlap = top_k_overlap(found.vectors, exact.vectors, NEIGHBOURS)
    if overlap < min_overlap:
        raise UsageError(
            f"decoded on the GPU, {len(sample)} images of the sample keep {overlap:.4f} of their "
            f"{NEIGHBOURS} nearest neighbours, below --min-overlap {min_overlap:g}: leave "
            "--decode gpu out"
        )
    return overlap


def _check_whole(embedded: Embedded) -> None:
    if embedded.failures:
        first = embedded.failures[0]
        raise SourceError(
            f"{len(embedded.failures)} images of the gate's sample have no vector, the first is "
            f"{first.item.id!r} ({first.error}: {first.message}): take them out"
        )

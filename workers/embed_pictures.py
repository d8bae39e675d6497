"""From items to features, through decoders and an engine that takes pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Item
from clipfleet.storage.format.parts import Failure
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.engines.base import PictureEngine
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.input_chunks import Outcome

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Pictures:
    """The outcomes of items, and the features of those that are no failure: float32 (n, D).

    `left` are the positions of the items whose JPEG files the GPU did not decode: their features
    are wrong, until they are replaced.
    """

    outcomes: list[Outcome]
    features: NDArray[np.float32]
    left: list[int]

    def replace(self, again: Pictures) -> None:
        """Take outcomes and features of the items that are left from another run of these."""
        rows = _rows(self.outcomes)
        theirs = _rows(again.outcomes)
        lost = []
        for number, position in enumerate(self.left):
            self.outcomes[position] = again.outcomes[number]
            if number in theirs:
                self.features[rows[position]] = again.features[theirs[number]]
            else:
                lost.append(rows[position])
        self.features = np.delete(self.features, lost, axis=0)
        self.left = []


def embed_pictures(
    items: Sequence[Item],
    engine: PictureEngine,
    decoders: Decoders,
    progress: Callable[[], None],
    *,
    exact: bool,
    begin: Callable[[Sequence[Item]], None],
    fingerprints: Fingerprints | None = None,
) -> Pictures:
    """Return the outcomes and features of items; if `exact`, the GPU decodes none of them.

    What the GPU does not decode gets a second run, which is exact. `begin` gets its items first.
    `fingerprints` get all pictures, once.

    Raises:
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    found = _run(items, engine, decoders, progress, exact=exact, fingerprints=fingerprints)
    if found.left:
        again = [items[number] for number in found.left]
        log.info("the CPU decodes what the GPU did not", extra={"images": len(again)})
        begin(again)
        found.replace(_run(again, engine, decoders, progress, exact=True))
    return found


def _run(
    items: Sequence[Item],
    engine: PictureEngine,
    decoders: Decoders,
    progress: Callable[[], None],
    *,
    exact: bool,
    fingerprints: Fingerprints | None = None,
) -> Pictures:
    outcomes: list[Outcome] = []
    features = np.empty((len(items), engine.card.dim), dtype=np.float32)

    def decoded() -> Iterator[Picture]:
        for outcome in stream:
            if isinstance(outcome, Failure):
                outcomes.append(outcome)
            else:
                outcomes.append(outcome.size)
                yield outcome

    pictures = decoders.run(
        items,
        exact=exact,
        sha256=fingerprints is not None and fingerprints.sha256,
        progress=progress,
        idle=engine.collect_pictures,
    )
    if fingerprints is not None:
        pictures = fingerprints.pictures(items, pictures)
    with closing(pictures) as stream:
        left = engine.run_pictures(decoded(), features, progress)
    positions = list(_rows(outcomes))
    return Pictures(
        outcomes=outcomes,
        features=features[: len(positions)],
        left=[positions[row] for row in left],
    )


def _rows(outcomes: Sequence[Outcome]) -> dict[int, int]:
    """Return the row of features of each position whose outcome is no failure, in order."""
    kept = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    return {position: row for row, position in enumerate(kept)}

"""From items to features, through decoders and an engine that takes pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.engines.base import PictureEngine, Progress, no_progress
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.decoders import Decoders, nothing
from clipfleet.workers.input_chunks import Decoded, Outcome
from clipfleet.workers.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRun:
    """How a run of an embedder embeds its items; see `Embedder.embed`."""

    rules: PictureRules
    exact: bool = False
    progress: Progress = no_progress
    fingerprints: Fingerprints | None = None

    def pictures(
        self, items: Sequence[Item], decoders: Decoders, *, idle: Callable[[], None] = nothing
    ) -> Generator[Picture | Failure, None, None]:
        """Yield a picture or a failure for each of `items`, as `Decoders.run` does."""
        outcomes = decoders.run(
            items,
            rules=self.rules,
            exact=self.exact,
            sha256=self.fingerprints is not None and self.fingerprints.sha256,
            progress=lambda: self.progress(0),
            idle=idle,
        )
        if self.fingerprints is None:
            return outcomes
        return self.fingerprints.pictures(items, outcomes)


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
    run: EmbedRun,
    *,
    begin: Callable[[Sequence[Item]], None],
    tally: Tally,
) -> Pictures:
    """Return the outcomes and features of items; if `run.exact`, the GPU decodes none of them.

    What the GPU does not decode gets a second run, which is exact. `begin` gets its items first.

    Raises:
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    found = _run(items, engine, decoders, run, tally=tally)
    if found.left:
        again = [items[number] for number in found.left]
        log.info("the CPU decodes what the GPU did not", extra={"images": len(again)})
        begin(again)
        # The items were counted, and have their fingerprints.
        second = EmbedRun(rules=run.rules, exact=True, progress=lambda _: run.progress(0))
        found.replace(_run(again, engine, decoders, second, tally=tally))
    return found


def _run(
    items: Sequence[Item],
    engine: PictureEngine,
    decoders: Decoders,
    run: EmbedRun,
    *,
    tally: Tally,
) -> Pictures:
    outcomes: list[Outcome] = []
    features = np.empty((len(items), engine.card.dim), dtype=np.float32)

    def decoded() -> Iterator[Picture]:
        for outcome in tally.pulled("wait", stream):
            if isinstance(outcome, Failure):
                outcomes.append(outcome)
                run.progress(1)
            else:
                outcomes.append(Decoded.of(outcome))
                yield outcome

    pictures = run.pictures(items, decoders, idle=engine.collect_pictures)
    with closing(pictures) as stream, tally.measure("engine"):
        left = engine.run_pictures(decoded(), features, run.progress)
    positions = list(_rows(outcomes))
    tally.count_calls(len(positions), call_size=engine.max_batch)
    return Pictures(
        outcomes=outcomes,
        features=features[: len(positions)],
        left=[positions[row] for row in left],
    )


def _rows(outcomes: Sequence[Outcome]) -> dict[int, int]:
    """Return the row of features of each position whose outcome is no failure, in order."""
    kept = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    return {position: row for row, position in enumerate(kept)}

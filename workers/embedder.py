"""From items to vectors: read → decode → preprocess | tokenise → engine → L2-normalise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import NON_FINITE
from clipfleet.errors import CardError, SettingsError, UsageError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings, cores
from clipfleet.storage.format.parts import Embedded, Failure
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.base import Engine, l2_normalise
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.http.prefetch import Prefetcher
from clipfleet.workers.images.decode import ImageLimits, configure_pillow
from clipfleet.workers.images.isolated_decoder import IsolatedDecoder
from clipfleet.workers.images.read import is_http_url
from clipfleet.workers.input_chunks import (
    Chunk,
    Fill,
    Outcome,
    TextFit,
    chunks,
    fill_for,
    isolated_fill,
)

Progress = Callable[[], None]  # called as items get done, from any thread

_MIN_CHUNK = 32  # items
_DECODE_SHARE = 0.5  # of the shard's deadline, at most, for one picture in the isolated decoder
_ITEMS_A_THREAD = 4  # in a chunk, so that threads seldom idle at its end


def no_progress() -> None:
    """Ignore progress."""


class Embedder(Closing):
    """An engine, its settings and the threads that make its inputs; a context manager.

    One call of `embed` at a time.
    """

    current: ClassVar[Embedder | None] = None  # this process's, see `open_embedder`

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self._urls = Prefetcher.from_settings(settings)
        self._is_fetching = False
        self._limits = ImageLimits.from_settings(settings, fetch=self._urls.take)
        self._fill = fill_for(engine.card, self._limits)
        threads = settings.decode_threads or cores()
        self._chunk = max(_MIN_CHUNK, engine.max_batch, _ITEMS_A_THREAD * threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @classmethod
    def from_settings(cls, settings: Settings) -> Embedder:
        """Load the engine of `settings.model`, for `settings.tower` if that is set.

        Raises:
            SettingsError: No model is set.
            CardError: The model is missing, its card is wrong, or it is of another tower.
            EngineError: The engine does not load.
        """
        if settings.model is None:
            raise SettingsError("no model: set CLIPFLEET_MODEL (or --model) to a model card")
        engine = load_engine(settings.model, settings)
        if settings.tower not in (None, engine.card.tower):
            engine.close()
            raise CardError(
                f"{settings.model} is the {engine.card.tower} tower, and this worker is for "
                f"{settings.tower}: name that tower's model card"
            )
        configure_pillow(ImageLimits.from_settings(settings))
        return cls(engine, settings)

    @property
    def card(self) -> ModelCard:
        """The engine's model card."""
        return self.engine.card

    def embed(
        self,
        items: Sequence[Item],
        *,
        isolated: bool = False,
        progress: Progress = no_progress,
    ) -> Embedded:
        """Return a vector or a failure for each of `items`, in order.

        With `isolated`, images are decoded one at a time in another process. Use it if one of
        the items may have ended a process: an image that ends its decoder is a failure.

        Raises:
            EngineError: The engine failed.
            StorageError: A file system did not answer.
        """
        self._prefetch([item.uri for item in items if item.uri and is_http_url(item.uri)])
        isolate = isolated and self.card.tower == "img"
        with self._isolated_fill(progress) if isolate else nullcontext(self._fill) as fill:
            return embed_in_chunks(
                items,
                self.engine,
                size=self._chunk,
                fill=fill,
                pool=self._pool,
                progress=progress,
            )

    def _prefetch(self, urls: Sequence[str]) -> None:
        if urls or self._is_fetching:  # fetches of an earlier run may be unfinished: it failed
            self._urls.begin(urls)
            self._is_fetching = bool(urls)

    @contextmanager
    def _isolated_fill(self, progress: Progress) -> Iterator[Fill]:
        """Make images' inputs in another process, which ends with this context."""
        limits, settings = self._limits, self.settings
        # With a longer timeout the deadline would end this process first, at every attempt.
        timeout_s = min(settings.decode_timeout_s, settings.shard_deadline_s * _DECODE_SHARE)
        with IsolatedDecoder(
            limits, attempts=settings.decode_attempts, timeout_s=timeout_s, progress=progress
        ) as decoder:
            yield isolated_fill(decoder, limits, progress)

    def close(self) -> None:
        """Stop the threads and free the engine."""
        self._urls.close()
        self._pool.shutdown(cancel_futures=True)
        self.engine.close()


def open_embedder(settings: Settings) -> Embedder:
    """Load the engine of `settings.model`; the embedder is this process's from now on.

    Raises:
        ClipfleetError: The engine does not load; str(error) says why.
    """
    Embedder.current = Embedder.from_settings(settings)
    return Embedder.current


def current_embedder() -> Embedder:
    """Return the embedder that `open_embedder` loaded into this process.

    Raises:
        UsageError: None was loaded: this process is not the child of a worker.
    """
    if Embedder.current is None:
        raise UsageError("this process holds no engine: tasks run in `clipfleet worker` only")
    return Embedder.current


def close_embedder() -> None:
    """Free the engine of this process, if there is one."""
    if Embedder.current is not None:
        Embedder.current.close()
    Embedder.current = None


def embed_in_chunks(
    items: Sequence[Item],
    engine: Engine,
    *,
    size: int,
    fill: Fill,
    pool: ThreadPoolExecutor,
    progress: Progress = no_progress,
) -> Embedded:
    """Return a vector or a failure for each of `items`, in order.

    `fill` makes the engine's inputs of `size` items at a time. `pool` runs it for the next items
    while the engine runs. `progress` is called after each call of the engine.

    Raises:
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    vectors = np.empty((len(items), engine.card.dim), dtype=np.float32)
    outcomes: list[Outcome] = []
    kept = 0
    with closing(chunks(items, engine, size=size, fill=fill, pool=pool)) as ready:
        for chunk in ready:
            features = engine(chunk.inputs)  # float32 (k, D)
            normalised = l2_normalise(features)  # float32 (k, D), NaN without a direction
            bad = np.isnan(normalised[:, 0])
            outcomes += _outcomes(chunk, features, bad)
            good = normalised[~bad]
            vectors[kept : kept + len(good)] = good
            kept += len(good)
            del chunk  # so that the next chunk can use its memory, which may be pinned
            progress()
    return _embedded(items, outcomes, vectors[:kept], has_sizes=engine.card.tower == "img")


def _outcomes(chunk: Chunk, features: NDArray[np.float32], bad: NDArray[np.bool_]) -> list[Outcome]:
    """Return the chunk's outcomes, with a failure for each bad row of the features (k, D)."""
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
    reason = (
        f"{bad} of its {len(features)} numbers are NaN or infinite" if bad else "it is all zeros"
    )
    return Failure(
        item=item, error=NON_FINITE, message=f"the model's vector has no direction: {reason}"
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
        cut=frozenset(item.id for item, outcome in pairs if outcome is TextFit.CUT),
    )

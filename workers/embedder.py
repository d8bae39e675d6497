"""From items to vectors: decode and preprocess | tokenise → engine → L2-normalise."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import NON_FINITE
from clipfleet.errors import CardError, SettingsError, UsageError
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.format.parts import Embedded, Failure
from clipfleet.workers.closing import Closing
from clipfleet.workers.embed_pictures import embed_pictures
from clipfleet.workers.engines.base import Engine, l2_normalise, picture_engine
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.faulty_items import with_faulty
from clipfleet.workers.http.prefetch import Prefetcher
from clipfleet.workers.images.decoders import Decoders, nothing
from clipfleet.workers.images.read import is_fetched_ahead
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.input_chunks import (
    Chunk,
    Decoded,
    Outcome,
    TextFit,
    image_chunks,
    text_inputs,
)
from clipfleet.workers.open_decoders import open_decoders
from clipfleet.workers.tally import Tally
from clipfleet.workers.text.tokenizer import Tokenizer

Progress = Callable[[], None]  # called as items get done, from any thread

_MIN_CHUNK = 32  # items


class Embedder(Closing):
    """An engine, its settings and what makes its inputs; a context manager.

    `chunk` is the number of items whose inputs are made together. One call of `embed` at a time.
    `tally` is what it did.
    """

    current: ClassVar[Embedder | None] = None  # this process's, see `open_embedder`

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.chunk = max(_MIN_CHUNK, engine.max_batch)
        self.tally = Tally()
        self._is_fetching = False
        self._source: Decoders | Tokenizer  # of the engine's inputs
        if engine.card.tower == "img":
            gpu = picture_engine(engine)
            self._source = open_decoders(
                settings,
                engine,
                chunk=self.chunk,
                has_ring=gpu is not None,
                jpeg_files=gpu is not None and gpu.decodes_jpegs,
                fetch=self._fetch,
                pin=gpu.pin if gpu else None,
            )
        else:
            self._source = Tokenizer()

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
        return cls(engine, settings)

    @property
    def card(self) -> ModelCard:
        """The engine's model card."""
        return self.engine.card

    def embed(
        self,
        items: Sequence[Item],
        *,
        rules: PictureRules | None = None,
        exact: bool = False,
        progress: Progress = nothing,
    ) -> Embedded:
        """Return a vector or a failure for each of `items`, in order; a failure if it has a fault.

        Without `rules`, those of the settings are used. If `exact`, the GPU decodes none of them,
        whatever the setting `decode` is.

        Raises:
            EngineError: The engine failed.
            StorageError: A file system did not answer.
        """
        rules = rules or PictureRules.of(self.settings)
        sound = [item for item in items if not item.fault]
        if len(sound) < len(items):
            embedded = self._embed(sound, rules=rules, exact=exact, progress=progress)
            return with_faulty(embedded, items)
        return self._embed(items, rules=rules, exact=exact, progress=progress)

    def _embed(
        self, items: Sequence[Item], *, rules: PictureRules, exact: bool, progress: Progress
    ) -> Embedded:
        source = self._source
        if isinstance(source, Tokenizer):
            return self._embed_texts(items, source, progress)
        self._prefetch_of(items)
        begin_s = time.time()
        try:
            return self._embed_images(items, source, rules=rules, exact=exact, progress=progress)
        finally:
            read_s, decode_s = source.take_work()
            self.tally.add("read", read_s, begin_s=begin_s)
            self.tally.add("decode", decode_s, begin_s=begin_s)

    def _embed_images(
        self,
        items: Sequence[Item],
        source: Decoders,
        *,
        rules: PictureRules,
        exact: bool,
        progress: Progress,
    ) -> Embedded:
        gpu = picture_engine(self.engine)
        if gpu:
            found = embed_pictures(
                items,
                gpu,
                source,
                progress,
                rules=rules,
                exact=exact,
                begin=self._prefetch_of,
                tally=self.tally,
            )
            vectors, outcomes = _normalised(items, found.outcomes, found.features)
            return _embedded(items, outcomes, vectors, has_sizes=True)
        pictures = source.run(items, rules=rules, progress=progress)
        images = image_chunks(items, self.engine, size=self.chunk, pictures=pictures)
        return embed_chunks(items, self.engine, images, progress=progress, tally=self.tally)

    def _embed_texts(
        self, items: Sequence[Item], tokenizer: Tokenizer, progress: Progress
    ) -> Embedded:
        """Embed texts, which are tokenised between two calls of the engine.

        A GPU has other batches meanwhile. A thread that tokenises would take Python's lock from
        the calls.
        """
        outcomes: list[Outcome] = []
        features = np.empty((len(items), self.card.dim), dtype=np.float32)
        ids = text_inputs(
            items,
            outcomes,
            context_length=self.card.context_length,
            size=self.chunk,
            tokenizer=tokenizer,
        )
        with self.tally.measure("engine"):
            tokenised = self.tally.pulled("tokenise", ids)
            count = self.engine.run_stream(tokenised, features, progress)
        self.tally.count_calls(count, call_size=self.chunk)
        vectors, outcomes = _normalised(items, outcomes, features[:count])
        return _embedded(items, outcomes, vectors, has_sizes=False)

    @cached_property
    def _urls(self) -> Prefetcher:
        """What fetches URLs, from the first URL on."""
        return Prefetcher.from_settings(self.settings)

    def _fetch(self, url: str) -> bytes:
        return self._urls.take(url)

    def _prefetch_of(self, items: Sequence[Item]) -> None:
        urls = [item.uri for item in items if item.uri and is_fetched_ahead(item.uri)]
        if urls or self._is_fetching:  # fetches of an earlier run may be unfinished: it failed
            self._urls.begin(urls)
            self._is_fetching = bool(urls)

    def close(self) -> None:
        """End the decoders and free the engine."""
        if "_urls" in vars(self):
            self._urls.close()
        if isinstance(self._source, Decoders):
            self._source.close()
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


def embed_chunks(
    items: Sequence[Item],
    engine: Engine,
    chunks: Generator[Chunk, None, None],
    *,
    progress: Progress = nothing,
    tally: Tally | None = None,
) -> Embedded:
    """Return a vector or a failure for each of `items`, in order.

    `chunks` yields their inputs. `progress` is called after each call of the engine.

    Raises:
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    vectors = np.empty((len(items), engine.card.dim), dtype=np.float32)
    outcomes: list[Outcome] = []
    kept = 0
    tally = tally or Tally()
    with closing(chunks):
        for chunk in tally.pulled("wait", chunks):
            with tally.measure("engine"):
                features = engine(chunk.inputs)
            tally.count_calls(len(chunk.inputs), call_size=max(_MIN_CHUNK, engine.max_batch))
            good, of_chunk = _normalised(chunk.items, chunk.outcomes, features)
            outcomes += of_chunk
            vectors[kept : kept + len(good)] = good
            kept += len(good)
            del chunk  # so that the next chunk can use its memory, which may be pinned
            progress()
    return _embedded(items, outcomes, vectors[:kept], has_sizes=True)


def _normalised(
    items: Sequence[Item], outcomes: list[Outcome], features: NDArray[np.float32]
) -> tuple[NDArray[np.float32], list[Outcome]]:
    """Return unit vectors (k, D), and the items' outcomes with a failure for each bad feature."""
    normalised = l2_normalise(features)  # float32 (k, D), NaN without a direction
    bad = np.isnan(normalised[:, 0])
    if not bad.any():
        return normalised, outcomes
    return normalised[~bad], _outcomes(items, outcomes, features, bad)


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

"""From items to vectors: decode and preprocess | tokenise → engine → L2-normalise."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from clipfleet.errors import CardError, SettingsError, UsageError
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Embedded
from clipfleet.workers.closing import Closing
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.copies.known import Copies
from clipfleet.workers.copies.reuse import open_reused
from clipfleet.workers.embed_pictures import EmbedRun, embed_pictures
from clipfleet.workers.engines.base import Engine, Progress, no_progress, picture_engine
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.faulty_items import with_faulty
from clipfleet.workers.http.prefetch import Prefetcher
from clipfleet.workers.images.decoders import Decoders
from clipfleet.workers.images.read import is_fetched_ahead
from clipfleet.workers.input_chunks import (
    Chunk,
    Outcome,
    TextFit,
    image_chunks,
    text_inputs,
    tokenise,
)
from clipfleet.workers.open_decoders import open_decoders
from clipfleet.workers.outcomes import embedded_of, joined, normalised
from clipfleet.workers.tally import Tally
from clipfleet.workers.text.tokenizer import Tokenizer

_MIN_CHUNK = 32  # items


class Embedder(Closing):
    """An engine, its settings and what makes its inputs; a context manager.

    `chunk` is the number of items whose inputs are made together. One call of `embed` at a time.
    `copies` has the vectors that need not be computed, `tally` is what it did.
    """

    current: ClassVar[Embedder | None] = None  # this process's, see `open_embedder`

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.chunk = max(_MIN_CHUNK, engine.max_batch)
        self.copies = Copies(open_reused(settings, engine.card))
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
        progress: Progress = no_progress,
        fingerprints: Fingerprints | None = None,
    ) -> Embedded:
        """Return a vector or a failure for each of `items`, in order; a failure if it has a fault.

        Without `rules`, those of the settings are used. If `exact`, the GPU decodes none of them,
        whatever the setting `decode` is. With `fingerprints`, new ones, the result has them, and
        copies are not embedded.

        Raises:
            EngineError: The engine failed.
            StorageError: A file system did not answer.
        """
        run = EmbedRun(
            rules=rules or PictureRules.of(self.settings),
            exact=exact,
            progress=progress,
            fingerprints=fingerprints,
        )
        sound = [item for item in items if not item.fault]
        embedded = self._embed(sound, run)
        if fingerprints is not None:
            with self.tally.measure("read"):
                lost = fingerprints.take(sound)
            if lost:  # they were counted
                again = replace(run, progress=lambda _: progress(0))
                embedded = joined(embedded, self._embed(lost, again))
            embedded = fingerprints.finish(sound, embedded)
        return with_faulty(embedded, items) if len(sound) < len(items) else embedded

    def _embed(self, items: Sequence[Item], run: EmbedRun) -> Embedded:
        source = self._source
        if isinstance(source, Tokenizer):
            return self._embed_texts(items, source, run)
        self._prefetch_of(items)
        begin_s = time.time()
        try:
            return self._embed_images(items, source, run)
        finally:
            read_s, decode_s = source.take_work()
            self.tally.add("read", read_s, begin_s=begin_s)
            self.tally.add("decode", decode_s, begin_s=begin_s)

    def _embed_images(self, items: Sequence[Item], source: Decoders, run: EmbedRun) -> Embedded:
        gpu = picture_engine(self.engine)
        if gpu:
            found = embed_pictures(
                items, gpu, source, run, begin=self._prefetch_of, tally=self.tally
            )
            vectors, outcomes = normalised(items, found.outcomes, found.features)
            return embedded_of(items, outcomes, vectors, has_sizes=True)
        pictures = run.pictures(items, source)
        images = image_chunks(items, self.engine, size=self.chunk, pictures=pictures)
        return embed_chunks(items, self.engine, images, progress=run.progress, tally=self.tally)

    def _embed_texts(self, items: Sequence[Item], tokenizer: Tokenizer, run: EmbedRun) -> Embedded:
        """Embed texts, which are tokenised between two calls of the engine.

        A GPU has other batches meanwhile. A thread that tokenises would take Python's lock from
        the calls.
        """
        known: list[Item] = []
        given = len(items)
        if run.fingerprints is not None:
            all_items, items = items, run.fingerprints.texts(items)
            known = run.fingerprints.known_texts(all_items)
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
            count = self.engine.run_stream(tokenised, features, run.progress)
        run.progress(given - count)  # the failures and copies
        self.tally.count_calls(count, call_size=self.chunk)
        vectors, outcomes = normalised(items, outcomes, features[:count])
        embedded = embedded_of(items, outcomes, vectors, has_sizes=False)
        # A dataset does not say which of its texts were cut.
        _, of_known = tokenise(known, self.card.context_length, tokenizer) if known else (None, [])
        cut = {i.id for i, fit in zip(known, of_known, strict=True) if fit is TextFit.CUT}
        return replace(embedded, cut=embedded.cut | cut) if cut else embedded

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
    progress: Progress = no_progress,
    tally: Tally | None = None,
) -> Embedded:
    """Return a vector or a failure for each of `items`, in order.

    `chunks` yields their inputs. `progress` is called as `Engine.run_stream` calls it, and with
    the number of each chunk's failures.

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
            features = np.empty((len(chunk.inputs), engine.card.dim), np.float32)
            with tally.measure("engine"):
                engine.run_stream([chunk.inputs], features, progress)
            tally.count_calls(len(chunk.inputs), call_size=max(_MIN_CHUNK, engine.max_batch))
            good, of_chunk = normalised(chunk.items, chunk.outcomes, features)
            outcomes += of_chunk
            vectors[kept : kept + len(good)] = good
            kept += len(good)
            progress(len(chunk.items) - len(chunk.inputs))  # those that failed before the engine
            del chunk  # so that the next chunk can use its memory, which may be pinned
    return embedded_of(items, outcomes, vectors[:kept], has_sizes=True)

"""The way of a run of items: read → decode → preprocess | tokenise → engine → L2-normalise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType

from clipfleet.errors import CardError, SettingsError
from clipfleet.jobs import Item
from clipfleet.settings import Settings, cores
from storage.parts import Embedded
from workers.careful_engine import CarefulEngine
from workers.decode import ImageLimits, configure_pillow
from workers.engines.base import Engine
from workers.engines.loading import load_engine
from workers.fetch_ahead import FetchAhead
from workers.inputs import Fill, fill_for, isolated_fill
from workers.isolated_decoder import IsolatedDecoder
from workers.read import is_web
from workers.run import Progress, embed, untold
from workers.suspects import Suspects

_MIN_CHUNK = 32  # items
_DECODE_SHARE = 0.5  # of the shard's deadline at most, for a picture that holds its decoder
_ITEMS_A_THREAD = 4  # in a chunk, so that threads seldom wait for the last item


class Embedder:
    """An engine with what feeds it, built once a process; a context manager.

    One call of `embed` at a time.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self._settings = settings
        self._urls = FetchAhead.from_settings(settings)
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
            CardError: The model is missing, its card is wrong, or it is another tower's.
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

    def embed(
        self,
        items: Sequence[Item],
        *,
        suspects: Suspects | None = None,
        progress: Progress = untold,
    ) -> Embedded:
        """Return what became of `items`: for each a vector or a failure, in order.

        With `suspects` it is done carefully, for items one of which may have ended a process, or
        failed the engine: they go one at a time, images are decoded in another process, and the
        item that ends that, or on which alone the engine fails, or ends its process, is a failure.

        Raises:
            EngineError: The engine failed.
            StorageError: A file system did not answer.
        """
        if suspects is not None:
            return self._embed_carefully(items, suspects, progress)
        self._begin(items)
        size, fill, pool = self._chunk, self._fill, self._pool
        return embed(items, self.engine, size=size, fill=fill, pool=pool, progress=progress)

    def _embed_carefully(
        self, items: Sequence[Item], suspects: Suspects, progress: Progress
    ) -> Embedded:
        engine = CarefulEngine(self.engine, attempts=self._settings.item_attempts)
        with self._careful_fill(progress) as fill:

            def run(items: Sequence[Item]) -> Embedded:
                self._begin(items)
                pool, held = self._pool, suspects.alone
                return embed(
                    items, engine, size=1, fill=fill, pool=pool, progress=progress, held=held
                )

            suspects.try_first(items, try_out=engine.try_out, run=run)
            return run(items)

    def _begin(self, items: Sequence[Item]) -> None:
        self._urls.begin([item.uri for item in items if item.uri and is_web(item.uri)])

    @contextmanager
    def _careful_fill(self, progress: Progress) -> Iterator[Fill]:
        """Make images' inputs in another process."""
        if self.engine.card.tower == "txt":
            yield self._fill
            return
        limits, settings = self._limits, self._settings
        # Were it longer, the deadline would end this process first, again and again.
        timeout_s = min(settings.decode_timeout_s, settings.shard_deadline_s * _DECODE_SHARE)
        with IsolatedDecoder(
            limits, attempts=settings.item_attempts, timeout_s=timeout_s, progress=progress
        ) as decoder:
            yield isolated_fill(decoder, limits)

    def close(self) -> None:
        """Stop the threads and free the engine."""
        self._urls.close()
        self._pool.shutdown(cancel_futures=True)
        self.engine.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

"""The questions of the page and their answers, without HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import ThreadpoolController

from clipfleet.errors import UsageError
from clipfleet.model_card import ModelCard
from clipfleet.retrieval.index.card import check_queries
from clipfleet.retrieval.index.index import Index

Vectors = NDArray[np.float32]


class UnknownRowError(UsageError):
    """The index has no row of this number, or the row is deleted."""


class Encoder(Protocol):
    """A model of both towers, as `clipfleet.load_model` returns it.

    Each method returns unit vectors, float32 (n, D), and raises an error of clipfleet.
    """

    @property
    def card(self) -> ModelCard: ...

    def encode_texts(self, texts: list[str], /) -> Vectors: ...

    def encode_images(self, images: list[Image.Image], /) -> Vectors: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A row of the index; `score` is its cosine with the query, None without a query."""

    row: int
    id: str
    uri: str | None
    text: str | None
    score: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The hits of a query, best first, and the seconds that encoding and search took.

    `like` is the row whose neighbours the hits are, if the query was a row.
    """

    hits: list[Hit]
    like: Hit | None = None
    encode_s: float = 0.0
    search_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Finder:
    """Answers queries, one at a time: an engine takes one call at once, and a search all threads.

    Each method raises an error of clipfleet for a query that cannot be answered.
    """

    def __init__(self, index: Index, model: Encoder | None, *, threads: int) -> None:
        """Raise `DatasetMismatchError` if the model is not of the index's checkpoint.

        A search takes so many `threads`.
        """
        if model is not None:
            check_queries(index.card, model.card)
        self.index = index
        self.model = model
        self._lock = Lock()
        self._threads = threads
        self._pools = ThreadpoolController()  # of the libraries that are loaded now, so of FAISS

    def by_text(self, text: str, k: int) -> Answer:
        """Return the k hits that are nearest to a text."""
        model = self._needed_model()
        return self._answer(lambda: model.encode_texts([text]), k)

    def by_picture(self, decode: Callable[[], Image.Image], k: int) -> Answer:
        """Return the k hits that are nearest to a picture, which is decoded if there is a model."""
        model = self._needed_model()
        picture = decode()
        return self._answer(lambda: model.encode_images([picture]), k)

    def by_row(self, row: int, k: int) -> Answer:
        """Return the k other hits that are nearest to a row of the index."""
        asked = self.item(row)

        def stored() -> Vectors:
            return self.index.vectors(np.array([row], np.int64)).astype(np.float32)

        answer = self._answer(stored, k + 1)
        others = [hit for hit in answer.hits if hit.row != row]
        return replace(answer, hits=others[:k], like=asked)

    def sample(self, k: int) -> Answer:
        """Return k rows that are spread evenly over the index, to begin with."""
        rows = np.flatnonzero(self.index.alive)
        if len(rows) > k:
            rows = rows[np.linspace(0, len(rows) - 1, k, dtype=np.int64)]
        return Answer(hits=self._hits(rows.astype(np.int64), None))

    def item(self, row: int) -> Hit:
        """Return a row of the index, without a score.

        Raises:
            UnknownRowError: The index has no such row, or the row is deleted.
        """
        if not (0 <= row < len(self.index.alive) and self.index.alive[row]):
            raise UnknownRowError(f"the index has no row {row}")
        return self._hits(np.array([row], np.int64), None)[0]

    def _needed_model(self) -> Encoder:
        if self.model is None:
            raise UsageError("texts and pictures need a model: start the server with --model")
        return self.model

    def _answer(self, encode: Callable[[], Vectors], k: int) -> Answer:
        # Each request has a thread, for which OpenMP has a number of its own: limit it here.
        with self._lock, self._pools.limit(limits=self._threads):
            begin_s = time.perf_counter()
            query = encode()  # float32 (1, D)
            encoded_s = time.perf_counter()
            found = self.index.search(query, k)
            end_s = time.perf_counter()
        there = found.rows[0] >= 0
        hits = self._hits(found.rows[0][there], found.scores[0][there])
        return Answer(hits=hits, encode_s=encoded_s - begin_s, search_s=end_s - encoded_s)

    def _hits(self, rows: NDArray[np.int64], scores: Vectors | None) -> list[Hit]:
        items = self.index.items(rows).to_pylist()
        return [
            Hit(
                row=int(row),
                id=item["id"],
                uri=item.get("uri"),
                text=item.get("text"),
                score=None if scores is None else float(scores[n]),
            )
            for n, (row, item) in enumerate(zip(rows, items, strict=True))
        ]

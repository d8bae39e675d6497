"""From items to an engine's inputs: threads prepare chunks while the engine runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.errors import ItemError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard
from clipfleet.storage.format.parts import Failure
from clipfleet.workers.engines.base import Array, Engine
from clipfleet.workers.images.decode import ImageLimits, read_image, read_image_bytes
from clipfleet.workers.images.isolated_decoder import IsolatedDecoder
from clipfleet.workers.images.preprocess import preprocess_into
from clipfleet.workers.text.tokenizer import Tokenizer

# Chunks that are prepared while the engine runs another. More chunks hide a slow file better;
# each costs the memory of its pixels (32 images of 224 x 224: 19 MB).
CHUNKS_AHEAD = 2


class TextFit(Enum):
    """Whether a text fits in the context length, or is cut to it."""

    WHOLE = "whole"
    CUT = "cut"


Size = tuple[int, int]  # an image's original width and height, in pixels
Outcome = Size | TextFit | Failure
# Writes the inputs of some items to the rows of an array, and returns an outcome for each.
Fill = Callable[[Sequence[Item], Array], list[Outcome]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Prepared items: `inputs` (k, …) are of the k items whose outcome is no failure."""

    items: Sequence[Item]
    outcomes: list[Outcome]
    inputs: Array


def fill_for(card: ModelCard, limits: ImageLimits) -> Fill:
    """Return the function that makes the inputs of a card's tower."""
    if card.tower == "txt":
        tokenizer = Tokenizer()
        return lambda items, ids: fill_texts(items, ids, tokenizer)
    return lambda items, pixels: fill_images(items, pixels, limits)


def isolated_fill(
    decoder: IsolatedDecoder, limits: ImageLimits, progress: Callable[[], None]
) -> Fill:
    """Return a function that makes an image tower's inputs in another process, one at a time.

    `progress` is called after each image: a chunk of slow images may exceed the deadline.
    """

    def fill_one(item: Item, pixels: Array) -> Outcome:
        try:
            data, uri = read_image_bytes(item, limits)
            size = decoder.decode_into(data, uri, pixels)
        except ItemError as error:
            return Failure(item=item, error=error.code, message=str(error))
        finally:
            progress()
        return size

    return lambda items, pixels: [fill_one(*pair) for pair in zip(items, pixels, strict=True)]


def fill_images(
    items: Sequence[Item], pixels: NDArray[np.float32], limits: ImageLimits
) -> list[Outcome]:
    """Write the pixels of n images to float32 (n, 3, S, S); a failed image's row is undefined."""
    return [_fill_image(item, row, limits) for item, row in zip(items, pixels, strict=True)]


def _fill_image(item: Item, pixels: NDArray[np.float32], limits: ImageLimits) -> Outcome:
    try:
        image, size = read_image(item, limits)
        preprocess_into(image, pixels)
    except ItemError as error:
        # Not the error itself: its traceback would keep the file's bytes in memory.
        return Failure(item=item, error=error.code, message=str(error))
    return size


def fill_texts(
    items: Sequence[Item], ids: NDArray[np.integer[Any]], tokenizer: Tokenizer
) -> list[Outcome]:
    """Write the ids of n texts to int64 or int32 (n, L); a text without a word is a failure."""
    ids[:], cut = tokenizer.encode_counted([item.text or "" for item in items], ids.shape[1])
    has_words = ids[:, 2] != 0  # padding, if [SEP] directly follows [CLS]
    return [
        (TextFit.CUT if is_cut else TextFit.WHOLE) if has_word else _empty_text(item)
        for item, has_word, is_cut in zip(items, has_words, cut, strict=True)
    ]


def _empty_text(item: Item) -> Failure:
    reason = (
        "the item has a uri and no text: this worker embeds texts"
        if item.text is None
        else f"the text holds no word: {item.text[:100]!a}"
    )
    return Failure(item=item, error=EMPTY_TEXT, message=reason)


def chunks(
    items: Sequence[Item], engine: Engine, *, size: int, fill: Fill, pool: ThreadPoolExecutor
) -> Generator[Chunk, None, None]:
    """Yield chunks of `size` items in order; the pool prepares the next chunks meanwhile.

    The inputs are written to arrays of `engine.empty_inputs`.
    """
    ahead: deque[_Pending] = deque()
    try:
        for start in range(0, len(items), size):
            ahead.append(_Pending(items[start : start + size], engine, fill, pool))
            if len(ahead) > CHUNKS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # after an error the other chunks are not needed
        for pending in ahead:
            pending.cancel()


class _Pending:
    """A chunk that the pool prepares."""

    def __init__(
        self, items: Sequence[Item], engine: Engine, fill: Fill, pool: ThreadPoolExecutor
    ) -> None:
        # One task for each image; one for all texts, for a text costs less than a task.
        step = 1 if engine.card.tower == "img" else len(items)
        self._items = items
        self._rows = engine.empty_inputs(len(items))
        self._outcomes: list[Future[list[Outcome]]] = [
            pool.submit(fill, items[start : start + step], self._rows[start : start + step])
            for start in range(0, len(items), step)
        ]

    def result(self) -> Chunk:
        outcomes = [outcome for future in self._outcomes for outcome in future.result()]
        usable = [not isinstance(outcome, Failure) for outcome in outcomes]
        inputs = self._rows if all(usable) else self._rows[usable]
        return Chunk(items=self._items, outcomes=outcomes, inputs=inputs)

    def cancel(self) -> None:
        for future in self._outcomes:
            future.cancel()

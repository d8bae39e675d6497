"""From items to an engine's inputs, a chunk at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.items import Item
from clipfleet.storage.format.parts import Failure
from clipfleet.workers.engines.base import Array, Engine
from clipfleet.workers.images import decoders
from clipfleet.workers.text.tokenizer import Tokenizer

CHUNKS_AHEAD = 2  # of texts, which are tokenised while the engine runs another


class TextFit(Enum):
    """Whether a text fits in the context length, or is cut to it."""

    WHOLE = "whole"
    CUT = "cut"


Size = tuple[int, int]  # an image's original width and height, in pixels
Outcome = Size | TextFit | Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Prepared items: `inputs` (k, …) are of the k items whose outcome is no failure."""

    items: Sequence[Item]
    outcomes: list[Outcome]
    inputs: Array


def image_chunks(
    items: Sequence[Item],
    engine: Engine,
    *,
    size: int,
    pictures: Generator[decoders.Outcome, None, None],
) -> Generator[Chunk, None, None]:
    """Yield chunks of `size` images in order; `pictures` yields each one's inputs, or a failure."""
    with closing(pictures):
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            rows = engine.empty_inputs(len(chunk))
            outcomes: list[Outcome] = []
            count = 0
            for picture in islice(pictures, len(chunk)):
                if isinstance(picture, Failure):
                    outcomes.append(picture)
                    continue
                rows[count] = picture.pixels
                picture.free()
                outcomes.append(picture.size)
                count += 1
            yield Chunk(items=chunk, outcomes=outcomes, inputs=rows[:count])
            del rows  # so that the next chunk can use its memory, which may be pinned


def text_chunks(
    items: Sequence[Item],
    engine: Engine,
    *,
    size: int,
    tokenizer: Tokenizer,
) -> Generator[Chunk, None, None]:
    """Yield chunks of `size` texts in order; a thread tokenises the next chunks meanwhile."""
    ahead: deque[Future[Chunk]] = deque()

    def tokenised(chunk: Sequence[Item]) -> Chunk:
        ids = engine.empty_inputs(len(chunk))
        outcomes = fill_texts(chunk, ids, tokenizer)
        usable = [not isinstance(outcome, Failure) for outcome in outcomes]
        return Chunk(items=chunk, outcomes=outcomes, inputs=ids if all(usable) else ids[usable])

    pool = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
    try:
        for start in range(0, len(items), size):
            ahead.append(pool.submit(tokenised, items[start : start + size]))
            if len(ahead) > CHUNKS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # after an error the other chunks are not needed
        pool.shutdown(cancel_futures=True)


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

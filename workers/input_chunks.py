"""From items to an engine's inputs, a chunk at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import EMPTY_TEXT
from clipfleet.items import Item
from clipfleet.storage.format.results import Failure
from clipfleet.workers.engines.base import Array, Engine
from clipfleet.workers.images import decoders
from clipfleet.workers.images.decoder import Picture
from clipfleet.workers.images.rules import Remark
from clipfleet.workers.text.tokenizer import Tokenizer


class TextFit(Enum):
    """Whether a text fits in the context length, or is cut to it."""

    WHOLE = "whole"
    CUT = "cut"


class Decoded(NamedTuple):
    """An image's original (width, height) in pixels, and what is counted of it."""

    size: tuple[int, int]
    remark: Remark = Remark.NONE

    @classmethod
    def of(cls, picture: Picture) -> Decoded:
        return cls(picture.size, picture.remark)


Outcome = Decoded | TextFit | Failure
Tokenised = tuple[NDArray[np.int64], list[Outcome]]


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
                outcomes.append(Decoded.of(picture))
                count += 1
            yield Chunk(items=chunk, outcomes=outcomes, inputs=rows[:count])
            del rows  # so that the next chunk can use its memory, which may be pinned


def text_inputs(
    items: Sequence[Item],
    outcomes: list[Outcome],
    *,
    context_length: int,
    size: int,
    tokenizer: Tokenizer,
) -> Iterator[NDArray[np.int64]]:
    """Yield the ids of `size` texts at a time, and append the outcome of each text."""
    for start in range(0, len(items), size):
        ids, of_chunk = tokenise(items[start : start + size], context_length, tokenizer)
        outcomes += of_chunk
        yield ids


def tokenise(items: Sequence[Item], context_length: int, tokenizer: Tokenizer) -> Tokenised:
    """Return the ids of the texts that have a word, int64 (k, L), and the outcomes of all n."""
    texts = [item.text or "" for item in items]
    ids, cut = tokenizer.encode_counted(texts, context_length)
    has_words = ids[:, 2] != 0  # padding, if [SEP] directly follows [CLS]
    outcomes: list[Outcome] = [
        (TextFit.CUT if is_cut else TextFit.WHOLE) if has_word else _empty_text(item)
        for item, has_word, is_cut in zip(items, has_words.tolist(), cut.tolist(), strict=True)
    ]
    return ids if has_words.all() else ids[has_words], outcomes


def _empty_text(item: Item) -> Failure:
    reason = (
        "the item has a uri and no text: this worker embeds texts"
        if item.text is None
        else f"the text holds no word: {item.text[:100]!a}"
    )
    return Failure(item=item, error=EMPTY_TEXT, message=reason)

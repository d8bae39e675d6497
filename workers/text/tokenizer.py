"""From texts to the token ids of the text tower.

This is BERT's tokeniser (basic tokeniser, then WordPiece) as the original uses it: the ids
are equal to the original's for every string. The `tokenizers` library was tried first and
is not exact: it drops private-use characters and raises on lone surrogates, knows no final
sigma, and has its own Unicode tables, while the original uses those of Python. Of 200,000
unusual strings, 23 % got other ids (docs/explanation/adr/0004-tokenizer.md).

Many texts are encoded at once: NumPy finds their words, and looks up the ids of characters that
are words of their own. Python sees the other words only, each a look-up.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.workers.text.vocabulary import Vocabulary

_AT_ONCE = 1 << 16  # characters, or one longer text

_CJK = (  # code points that are words of their own; first and last
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
# Kinds of characters. A run of letters is a word; so is a single CJK character.
_UNKNOWN, _DROPPED, _SPACE, _LETTER, _CJK_WORD = range(5)

_UTF_32 = "utf-32-le"  # four bytes a character; with surrogates, which file names and JSON may hold


class Tokenizer:
    """Encodes texts with a vocabulary; thread-safe."""

    def __init__(self, vocabulary_path: str | Path | None = None) -> None:
        """Read a vocabulary, one entry a line; the one of the published models by default.

        Raises:
            UsageError: The file is missing, or lacks an entry that every text needs.
        """
        self._vocabulary = Vocabulary(vocabulary_path)
        # By code point, filled as characters occur.
        self._kinds = np.zeros(sys.maxunicode + 1, np.uint8)
        self._cjk_ids = np.zeros(sys.maxunicode + 1, np.int32)

    def __len__(self) -> int:
        return self._vocabulary.entries

    def encode(self, texts: Sequence[str], context_length: int) -> NDArray[np.int64]:
        """Return the ids of n texts, int64 (n, L): [CLS], the text cut to L - 2, [SEP], zeros.

        Raises:
            ValueError: A context length below 2.
        """
        return self.encode_counted(texts, context_length)[0]

    def encode_counted(
        self, texts: Sequence[str], context_length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return `encode`'s ids, and which of the n texts were cut, bool (n,).

        Raises:
            ValueError: A context length below 2.
        """
        if context_length < 2:
            raise ValueError(f"context length is {context_length}: expected at least 2")
        ids = np.zeros((len(texts), context_length), dtype=np.int64)
        counts = np.zeros(len(texts), dtype=np.intp)
        start = 0
        for group in _groups(texts):
            stop = start + len(group)
            tokens, counts[start:stop] = self._tokens(group)
            self._fill(ids[start:stop], tokens, counts[start:stop])
            start = stop
        return ids, counts > context_length - 2

    def _fill(
        self, ids: NDArray[np.int64], tokens: NDArray[np.int32], counts: NDArray[np.intp]
    ) -> None:
        """Write the tokens of n texts, of which each has so many, to ids (n, L) of zeros."""
        limit = ids.shape[1] - 2
        rows = np.repeat(np.arange(len(ids)), counts)
        columns = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = columns < limit
        ids[:, 0] = self._vocabulary.cls
        ids[rows[kept], columns[kept] + 1] = tokens[kept]
        ids[np.arange(len(ids)), np.minimum(counts, limit) + 1] = self._vocabulary.sep

    def _tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return the tokens of n texts, one text after the other, and how many each has (n,)."""
        joined = "".join(f"{text}\n" for text in texts)
        codes = np.frombuffer(joined.encode(_UTF_32, "surrogatepass"), "<u4")
        ends = np.cumsum([len(text) + 1 for text in texts])  # after each text and its "\n"
        kinds = self._kinds_of(codes)
        left = kinds != _DROPPED
        if not left.all():
            codes, kinds, ends = codes[left], kinds[left], np.cumsum(left)[ends - 1]
        is_letter = kinds == _LETTER
        starts = np.flatnonzero(np.diff(is_letter.view(np.int8), prepend=np.int8(0)) == 1)
        spaced = np.where(is_letter, codes, np.uint32(ord(" ")))
        words = spaced.tobytes().decode(_UTF_32, "surrogatepass").split()
        ids_of_words = list(map(self._vocabulary.__getitem__, words))
        # How many tokens start at each character: so a token's place is the sum up to it.
        started = (kinds == _CJK_WORD).astype(np.intp)
        started[starts] = np.fromiter(map(len, ids_of_words), np.intp, len(words))
        places = np.cumsum(started)
        tokens = np.zeros(places[-1], np.int32)
        characters = np.flatnonzero(kinds == _CJK_WORD)
        is_character = np.zeros(len(tokens), np.bool_)
        is_character[places[characters] - 1] = True
        tokens[is_character] = self._cjk_ids[codes[characters]]
        tokens[~is_character] = np.fromiter(chain.from_iterable(ids_of_words), np.int32)
        return tokens, np.diff(places[ends - 1], prepend=0)

    def _kinds_of(self, codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
        kinds = self._kinds[codes]
        if not kinds.all():
            for code in np.unique(codes[kinds == _UNKNOWN]).tolist():
                kind = _kind(chr(code))
                if kind == _CJK_WORD:
                    (self._cjk_ids[code],) = self._vocabulary[chr(code)]
                self._kinds[code] = kind  # last: another thread may read it
            kinds = self._kinds[codes]
        return kinds


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut texts into runs, of so few characters that their arrays stay small."""
    start = size = 0
    for n, text in enumerate(texts):
        size += len(text)
        if size > _AT_ONCE and n > start:
            yield texts[start:n]
            start, size = n, len(text)
    if start < len(texts):
        yield texts[start:]


def _kind(char: str) -> int:
    """Return what the basic tokeniser takes a character for."""
    if char in "\t\n\r":
        return _SPACE
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or char == "\ufffd":
        return _DROPPED
    if category == "Zs" or char.isspace():  # U+2028 and U+2029 are of other categories
        return _SPACE
    if any(first <= ord(char) <= last for first, last in _CJK):
        return _CJK_WORD
    return _LETTER

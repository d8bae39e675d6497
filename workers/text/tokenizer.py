"""From texts to the token ids of the text tower.

This is BERT's tokeniser (basic tokeniser, then WordPiece) as the original uses it: the ids
are equal to the original's for every string. The `tokenizers` library was tried first and
is not exact: it drops private-use characters and raises on lone surrogates, knows no final
sigma, and has its own Unicode tables, while the original uses those of Python. Of 200,000
unusual strings, 23 % got other ids (docs/explanation/adr/0004-tokenizer.md).
The results for characters and words are cached, so that common texts cost a few look-ups.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import UsageError

VOCABULARY_SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]

_CACHED_WORDS = 1 << 17  # 44 MB when full
_MAX_CACHED_LENGTH = 32  # characters; longer words seldom repeat

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
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class Tokenizer:
    """A WordPiece vocabulary that encodes texts; thread-safe."""

    def __init__(self, vocabulary_path: str | Path | None = None) -> None:
        """Read a vocabulary, one entry a line; the one of the published models by default.

        Raises:
            UsageError: The file is missing, or lacks an entry that every text needs.
        """
        self._ids = _read_vocabulary(vocabulary_path)
        try:
            self._cls, self._sep, self._unk = (self._ids[t] for t in ("[CLS]", "[SEP]", "[UNK]"))
        except KeyError as missing:
            raise UsageError(f"vocabulary {vocabulary_path} has no entry {missing}") from None
        self._longest = max(map(len, self._ids))
        self._word_ids = lru_cache(maxsize=_CACHED_WORDS)(self._ids_of_word)
        self._characters = _Characters()

    def __len__(self) -> int:
        return len(self._ids)

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
        cut = np.zeros(len(texts), dtype=np.bool_)
        limit = context_length - 2
        for n, text in enumerate(texts):
            tokens = self._tokens(text, limit + 1)
            cut[n] = len(tokens) > limit
            del tokens[limit:]
            ids[n, : len(tokens) + 2] = [self._cls, *tokens, self._sep]
        return ids, cut

    def _tokens(self, text: str, limit: int) -> list[int]:
        """Return a text's first tokens: at least `limit`, if the text has as many."""
        tokens: list[int] = []
        for word in text.translate(self._characters).split():
            if len(tokens) >= limit:
                break
            cached = len(word) <= _MAX_CACHED_LENGTH
            tokens += self._word_ids(word) if cached else self._ids_of_word(word)
        return tokens

    def _ids_of_word(self, word: str) -> tuple[int, ...]:
        return tuple(i for part in _split_punctuation(_fold(word)) for i in self._pieces(part))

    def _pieces(self, word: str) -> list[int]:
        """Return WordPiece's ids: the longest entry that starts the word, then that of the rest."""
        if len(word) > MAX_WORD_LENGTH:
            return [self._unk]
        pieces: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                piece = self._ids.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return [self._unk]
            pieces.append(piece)
            start, prefix = end, "##"
        return pieces


class _Characters(dict[int, str]):
    """The basic tokeniser's replacement of each character, filled on demand."""

    def __missing__(self, code_point: int) -> str:
        self[code_point] = replacement = _cleaned(chr(code_point))
        return replacement


def _cleaned(char: str) -> str:
    if char in "\t\n\r":
        return " "
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or char == "\ufffd":
        return ""
    if category == "Zs":
        return " "
    if any(first <= ord(char) <= last for first, last in _CJK):
        return f" {char} "
    return char


def _fold(word: str) -> str:
    """Lower-case a word and drop its accents."""
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def _split_punctuation(word: str) -> list[str]:
    spaced = "".join(f" {c} " if _is_punctuation(c) else c for c in word)
    return spaced.split()


def _is_punctuation(char: str) -> bool:
    return char in _ASCII_PUNCTUATION or unicodedata.category(char).startswith("P")


def _read_vocabulary(path: str | Path | None) -> dict[str, int]:
    try:
        if path is None:
            text = (resources.files("clipfleet.workers.text") / "vocab.txt").read_bytes().decode()
        else:
            text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"vocabulary {path} cannot be read: {error}") from error
    lines = text.removesuffix("\n").split("\n")  # not splitlines: U+2028 is an entry
    return {line.strip(): index for index, line in enumerate(lines)}

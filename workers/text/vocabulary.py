"""A WordPiece vocabulary, and the ids of a word.

A word is a run of characters without a space, as BERT's basic tokeniser leaves it before it
lower-cases it.
"""

from __future__ import annotations

import unicodedata
from importlib import resources
from pathlib import Path

from clipfleet.errors import UsageError

VOCABULARY_SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]

_CACHED_WORDS = 1 << 17  # 44 MB when full
_MAX_CACHED_LENGTH = 32  # characters; longer words seldom repeat
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class Vocabulary(dict[str, tuple[int, ...]]):
    """The ids of words: `vocabulary[word]` finds them once, and keeps those of short words."""

    def __init__(self, path: str | Path | None = None) -> None:
        """Read the entries, one a line; those of the published models by default.

        Raises:
            UsageError: The file is missing, or lacks an entry that every text needs.
        """
        super().__init__()
        self._ids = _read_entries(path)
        try:
            self.cls, self.sep, self.unk = (self._ids[t] for t in ("[CLS]", "[SEP]", "[UNK]"))
        except KeyError as missing:
            raise UsageError(f"vocabulary {path} has no entry {missing}") from None
        self.entries = len(self._ids)
        self._continuing = {e[2:]: i for e, i in self._ids.items() if e.startswith("##")}
        self._longest = max(map(len, self._ids))

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(i for part in _split_punctuation(_fold(word)) for i in self._pieces(part))
        if len(word) <= _MAX_CACHED_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids

    def _pieces(self, word: str) -> list[int]:
        """Return WordPiece's ids: the longest entry that starts the word, then that of the rest."""
        if len(word) > MAX_WORD_LENGTH:
            return [self.unk]
        pieces: list[int] = []
        start, entries = 0, self._ids
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                piece = entries.get(word[start:end])
                if piece is not None:
                    break
            else:
                return [self.unk]
            pieces.append(piece)
            start, entries = end, self._continuing
        return pieces


def _fold(word: str) -> str:
    """Lower-case a word and drop its accents."""
    if word.isascii():  # it has none
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def _split_punctuation(word: str) -> list[str]:
    if word.isalnum():  # letters and numbers are no punctuation
        return [word]
    spaced = "".join(f" {c} " if _is_punctuation(c) else c for c in word)
    return spaced.split()


def _is_punctuation(char: str) -> bool:
    return char in _ASCII_PUNCTUATION or unicodedata.category(char).startswith("P")


def _read_entries(path: str | Path | None) -> dict[str, int]:
    try:
        if path is None:
            text = (resources.files("clipfleet.workers.text") / "vocab.txt").read_bytes().decode()
        else:
            text = Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"vocabulary {path} cannot be read: {error}") from error
    lines = text.removesuffix("\n").split("\n")  # not splitlines: U+2028 is an entry
    return {line.strip(): index for index, line in enumerate(lines)}

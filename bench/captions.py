"""Made captions: Chinese and English ones in turn, with many different words, equal in every run.

    python -m bench.captions OUT.jsonl --count 200000

Chinese captions are of characters, English ones of words that are put together from the tokeniser's
entries, so most of the words are new to its cache.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

_FIRST_CJK, _LAST_CJK = "\u4e00", "\u9fff"
_CHARACTERS = (8, 30)  # of a Chinese caption
_WORDS = (5, 18)  # of an English caption
_PIECES = (1, 1, 1, 2, 3)  # of an English word: most are entries


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200_000)
    args = parser.parse_args(arguments)
    write_captions(args.out, args.count)


def write_captions(path: Path, count: int) -> None:
    """Write a JSONL file of `count` captions with the ids `caption-0` …"""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(captions(count)):
            line = json.dumps({"id": f"caption-{number}", "text": text}, ensure_ascii=False)
            file.write(line + "\n")


def captions(count: int, seed: int = 0) -> Iterator[str]:
    """Yield `count` captions."""
    chance = random.Random(seed)
    characters, pieces = _entries()
    for number in range(count):
        if number % 2 == 0:
            half = chance.choices(characters, k=chance.randint(*_CHARACTERS))
            yield "".join(half) + f"，{chance.randrange(count)}"
        else:
            words = (
                "".join(chance.choices(pieces, k=chance.choice(_PIECES)))
                for _ in range(chance.randint(*_WORDS))
            )
            yield " ".join(words)


@cache
def _entries() -> tuple[list[str], list[str]]:
    """Return the vocabulary's Chinese characters and its English words."""
    text = (resources.files("clipfleet.workers.text") / "vocab.txt").read_text(encoding="utf-8")
    entries = text.split("\n")
    characters = [entry for entry in entries if _FIRST_CJK <= entry <= _LAST_CJK]
    words = [entry for entry in entries if entry.isascii() and entry.isalpha()]
    return characters, words


if __name__ == "__main__":
    main()

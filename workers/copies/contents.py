"""Which part has a vector of which bytes, in little memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PREFIX_DIGITS = 16  # of a SHA-256, that are kept: 8 bytes
_RATIO = 4  # each run is so many times as long as the next one, or longer

Prefixes = NDArray[np.uint64]
Parts = NDArray[np.uint32]


def prefixes_of(hashes: list[str]) -> Prefixes:
    """Return the first 64 bits of each SHA-256: uint64 (n,).

    Raises:
        ValueError: One of them is no SHA-256.
    """
    digits = "".join(sha256[:_PREFIX_DIGITS] for sha256 in hashes)
    prefixes = np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
    if len(prefixes) != len(hashes):
        raise ValueError("a content hash is no SHA-256")
    return prefixes


class Contents:
    """The number of a part for each content: 12 bytes of memory.

    A content is told by the first 64 bits of its SHA-256. Of 10^7 contents, two have the same ones
    with a probability of 3 in a million; so the part is asked for the whole SHA-256.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Prefixes, Parts]] = []  # sorted by prefix; the newest is the last

    def __len__(self) -> int:
        return sum(len(prefixes) for prefixes, _ in self._runs)

    def add(self, prefixes: Prefixes, part: int) -> None:
        """Add the contents of a part, uint64 (n,); it takes the place of an older one."""
        prefixes = np.unique(prefixes)
        run = (prefixes, np.full(len(prefixes), part, np.uint32))
        while self._runs and len(self._runs[-1][0]) < _RATIO * len(run[0]):
            run = _merged(*self._runs.pop(), *run)
        self._runs.append(run)

    def find(self, sha256: str) -> int | None:
        """Return the number of the newest part that may have a content; None if none has it."""
        prefix = np.uint64(int(sha256[:_PREFIX_DIGITS], 16))
        for prefixes, parts in reversed(self._runs):
            at = prefixes.searchsorted(prefix)
            if at < len(prefixes) and prefixes[at] == prefix:
                return int(parts[at])
        return None


def _merged(
    old_prefixes: Prefixes, old_parts: Parts, prefixes: Prefixes, parts: Parts
) -> tuple[Prefixes, Parts]:
    """Return two sorted runs as one, with the newer part of a content that both have."""
    at = old_prefixes.searchsorted(prefixes)
    known = np.zeros(len(at), bool)
    inside = at < len(old_prefixes)
    known[inside] = old_prefixes[at[inside]] == prefixes[inside]
    old_parts[at[known]] = parts[known]
    new = ~known
    return (
        np.insert(old_prefixes, at[new], prefixes[new]),
        np.insert(old_parts, at[new], parts[new]),
    )

"""The leader rule: drop what is near a kept row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.dedupe.near_pairs import NearPairs, Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The representative of each rank, int64 (n,), and its cosine with it, float32 (n,).

    A kept rank is its own representative, with the cosine 1.
    """

    representatives: Ranks
    cosines: NDArray[np.float32]

    @property
    def kept(self) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = self.representatives == np.arange(len(self.representatives))
        return kept

    @property
    def sizes(self) -> Ranks:
        """The number of rows in the group of each rank, (n,)."""
        counts = np.bincount(self.representatives, minlength=len(self.representatives))
        return counts[self.representatives]


def find_groups(pairs: NearPairs) -> Groups:
    """Decide every rank: it is dropped if a kept rank before it is near, and kept otherwise.

    One round decides all ranks whose nearer ranks are decided, so no pair is remembered: memory
    does not grow with the number of pairs. The first round compares all rows, the others only
    those that are still undecided. Of equal vectors only the first is compared, and the others go
    its way. A dropped row's representative is the nearest kept row, of equals the first one.
    """
    count, first_equal = len(pairs.rows), pairs.rows.first_equal
    firsts = first_equal == np.arange(count)
    undecided, kept = firsts.copy(), np.zeros(count, np.bool_)
    nearest = _Nearest(count)
    while undecided.any():
        waits = np.zeros(count, np.bool_)
        for a, b, cosines in pairs.between(undecided, undecided | kept):
            first, later = np.minimum(a, b), np.maximum(a, b)
            waits[later[undecided[first]]] = True
            hit = kept[first] & undecided[later]
            nearest.update(later[hit], first[hit], cosines[hit])
        dropped = undecided & (nearest.ranks >= 0)
        decided = undecided & ~dropped & ~waits
        kept |= decided
        undecided &= ~(dropped | decided)
    for a, b, cosines in pairs.between(firsts & ~kept, kept):
        nearest.update(np.where(kept[a], b, a), np.where(kept[a], a, b), cosines)
    nearest.ranks[kept], nearest.cosines[kept] = np.flatnonzero(kept), 1
    return Groups(representatives=nearest.ranks[first_equal], cosines=nearest.cosines[first_equal])


class _Nearest:
    """The nearest kept rank so far of each rank; -1 for none."""

    def __init__(self, count: int) -> None:
        self.ranks = np.full(count, -1, np.int64)
        self.cosines = np.full(count, -np.inf, np.float32)

    def update(self, ranks: Ranks, kept: Ranks, cosines: NDArray[np.float32]) -> None:
        """Take a kept rank that is nearer than the one so far, or as near and before it."""
        order = np.lexsort((kept, -cosines, ranks))
        ranks, first = np.unique(ranks[order], return_index=True)
        kept, cosines = kept[order][first], cosines[order][first]
        known, at = self.ranks[ranks], self.cosines[ranks]
        better = (cosines > at) | ((cosines == at) & (kept < known))
        self.ranks[ranks[better]] = kept[better]
        self.cosines[ranks[better]] = cosines[better]

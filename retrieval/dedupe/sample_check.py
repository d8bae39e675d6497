"""What the cells missed: a sample of rows is compared with every row."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from clipfleet.retrieval.dedupe.leaders import Groups
from clipfleet.retrieval.dedupe.near_pairs import NearPairs

_BLOCK_ROWS = 4096
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCheck:
    """The near pairs of a sample, by exact comparison with all rows.

    `rows` were sampled, `rows_with_pairs` of them have a near row, and `rows_whole` of these had
    every one of their pairs compared. `pairs` and `pairs_found` count the pairs of the sample.
    `pairs_kept` are the pairs of which both rows were kept: near-duplicates that are left.
    """

    rows: int
    rows_with_pairs: int
    rows_whole: int
    pairs: int
    pairs_found: int
    pairs_kept: int

    @property
    def recall(self) -> float | None:
        """The share of the true pairs that were compared; None without a true pair."""
        return self.pairs_found / self.pairs if self.pairs else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the share of rows of which no pair was missed; None without any.

        Wilson's interval. It counts rows, because the pairs of one group are missed together.
        """
        n = self.rows_with_pairs
        if not n:
            return None
        share, spread = self.rows_whole / n, _Z**2 / n
        centre = share + spread / 2
        width = _Z * sqrt(share * (1 - share) / n + spread / n / 4)
        return max((centre - width) / (1 + spread), 0), min((centre + width) / (1 + spread), 1)


def check_sample(pairs: NearPairs, groups: Groups, *, rows: int, seed: int) -> SampleCheck:
    """Compare a random sample of rows with all rows."""
    total, kept = len(pairs.rows), groups.kept
    sample = np.random.default_rng(seed).choice(total, min(rows, total), replace=False)
    sample.sort()
    vectors = pairs.rows.vectors(sample)
    true, found = np.zeros(len(sample), np.int64), np.zeros(len(sample), np.int64)
    both_kept = 0
    for start in range(0, total, _BLOCK_ROWS):
        block = np.arange(start, min(start + _BLOCK_ROWS, total))
        near = vectors @ pairs.rows.vectors(block).T >= pairs.threshold
        a, b = np.nonzero(near)
        a, b = a[sample[a] != block[b]], block[b][sample[a] != block[b]]
        compared = pairs.cells.compared(sample[a], b)
        true += np.bincount(a, minlength=len(sample))
        found += np.bincount(a[compared], minlength=len(sample))
        both_kept += int(np.count_nonzero(kept[sample[a]] & kept[b]))
    return SampleCheck(
        rows=len(sample),
        rows_with_pairs=int(np.count_nonzero(true)),
        rows_whole=int(np.count_nonzero((found == true) & (true > 0))),
        pairs=int(true.sum()),
        pairs_found=int(found.sum()),
        pairs_kept=both_kept,
    )

"""The result of a search: the rows that are nearest to each query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """The k nearest rows of q queries, best first.

    `rows` is int64 (q, k), with -1 where fewer than k rows were found; `scores` is float32 (q, k),
    the cosines, with -inf there. Of equal scores the lower row comes first.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

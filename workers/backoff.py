"""The delay before the next attempt."""

from __future__ import annotations

import random

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 32.0


def backoff_s(attempt: int, *, first_s: float = FIRST_DELAY_S, max_s: float = MAX_DELAY_S) -> float:
    """Return the seconds to wait after failed attempt 1, 2, …: a delay that doubles, then levels.

    A random part of it, up to half, is subtracted, so that processes that failed together do
    not retry together.
    """
    delay_s = min(first_s * 2.0 ** min(attempt - 1, 30), max_s)
    return random.uniform(delay_s / 2, delay_s)

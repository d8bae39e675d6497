"""How long to wait before something is tried again."""

from __future__ import annotations

import random

FIRST_DELAY_S = 0.5
_MAX_DOUBLINGS = 6


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait after failed attempt 1, 2, …, for what a worker waits for itself.

    Anything from none to a limit that doubles ("full jitter"): those that failed together do
    not come back together.
    """
    return random.uniform(0, FIRST_DELAY_S * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))

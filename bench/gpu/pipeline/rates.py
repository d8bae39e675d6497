"""Rates of parts that run in one process: their items, and the median of several rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.storage.sources.open_source import open_source

ROUNDS = 3
_ENOUGH_S = 10.0  # after which no other round is needed


def items_of(source: Path, tower: Tower, count: int) -> list[Item]:
    """Return the first `count` items of a source.

    Raises:
        SystemExit: There are none.
    """
    items = list(islice(open_source(str(source), tower=tower), count))
    if not items:
        raise SystemExit(f"no items in {source}")
    return items


def median_rate(run: Callable[[], object], count: int) -> float:
    """Return the rate at which `run` takes `count` items: the median of at most three rounds."""
    seconds: list[float] = []
    while len(seconds) < ROUNDS and sum(seconds) < _ENOUGH_S:
        began_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began_s)
    return count / statistics.median(seconds)

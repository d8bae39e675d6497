"""Measure items per second of an engine with many items in each call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from bench.gpu.measurement import Rate

DISTINCT_ITEMS = 64
_MAX_BYTES = 1 << 30  # inputs held at once

Call = Callable[[NDArray[Any]], object]


def measure_rate(
    call: Call,
    inputs: NDArray[Any],
    *,
    contexts: int,
    empty: Callable[[int], NDArray[Any]],
    round_s: float = 0.5,
    rounds: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Rate:
    """Return the rate at which `call` takes items: `inputs` over and over, in one array a round.

    The first call warms up, the second says how many items fill `round_s`: at least
    `inputs` once, at most 1 GiB of them. `empty` gives the array that they are put into.
    """
    call(inputs)
    seconds = _seconds(call, inputs, clock)
    copies = round(round_s / max(seconds, 1e-9))
    copies = min(max(copies, 1), max(_MAX_BYTES // inputs.nbytes, 1))
    many = empty(copies * len(inputs))
    many.reshape(copies, *inputs.shape)[...] = inputs
    rates = tuple(len(many) / _seconds(call, many, clock) for _ in range(rounds))
    return Rate(contexts=contexts, items_s=statistics.median(rates), rounds=rates, items=len(many))


def _seconds(call: Call, inputs: NDArray[Any], clock: Callable[[], float]) -> float:
    start = clock()
    call(inputs)
    return clock() - start

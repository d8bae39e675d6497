"""Measure and summarise the latency of calls, and print it in the guide's form."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The latency of n calls with `batch_size` items each, in milliseconds a call.

    `sd_ms` is the population's standard deviation; percentiles are interpolated linearly.
    """

    batch_size: int
    calls: int
    mean_ms: float
    sd_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def items_s(self) -> float:
        """Items a second of calls one after the other."""
        return 1000.0 * self.batch_size / self.mean_ms

    def line(self, name: str) -> str:
        """Return the guide's line of a run, `name` being "TensorRT image" or the like."""
        return (
            f"[{name} inference speed (batch-size: {self.batch_size}):] "
            f"mean={self.mean_ms:.2f}ms, sd={self.sd_ms:.2f}ms, min={self.min_ms:.2f}ms, "
            f"max={self.max_ms:.2f}ms, median={self.p50_ms:.2f}ms, 95p={self.p95_ms:.2f}ms, "
            f"99p={self.p99_ms:.2f}ms"
        )

    def to_dict(self) -> dict[str, float]:
        """Return every field and `items_s`, for JSON."""
        return {**asdict(self), "items_s": self.items_s}


def summarise(seconds: Sequence[float], *, batch_size: int) -> Latency:
    """Return the latency of calls that took `seconds` each.

    Raises:
        ValueError: There is no call.
    """
    if not seconds:
        raise ValueError("no call was timed: at least one is needed")
    ms = 1000.0 * np.asarray(seconds, dtype=np.float64)
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    return Latency(
        batch_size=batch_size,
        calls=len(ms),
        mean_ms=float(ms.mean()),
        sd_ms=float(ms.std()),
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
    )


def time_calls(
    calls: Sequence[Callable[[], object]],
    *,
    n: int,
    warmup: int,
    limit_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the seconds that each of `n` calls took, made in turn from `calls`.

    `warmup` calls before them are not counted. With `limit_s`, the first call that ends
    later than that is the last.
    """
    for number in range(warmup):
        calls[number % len(calls)]()
    taken: list[float] = []
    begun = clock()
    for number in range(n):
        call = calls[number % len(calls)]
        start = clock()
        call()
        end = clock()
        taken.append(end - start)
        if limit_s is not None and end - begun >= limit_s:
            break
    return taken

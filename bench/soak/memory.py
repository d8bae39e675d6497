"""Memory over a job: resident sizes from /proc, their peaks and their growth."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

INTERVAL_S = 0.5
SETTLED = 0.1  # share of a job: memory of the start is not growth
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

# Yields the role, the pid, and whether the growth is measured.
Processes = Callable[[], Iterable[tuple[str, int, bool]]]


@dataclass(kw_only=True)
class Memory:
    """Resident bytes by role: the peak, and (done, bytes) of each measured process.

    `done` is the share of the job that is done, 0 to 1.
    """

    peaks: dict[str, int] = field(default_factory=dict)
    lives: dict[str, dict[int, list[tuple[float, int]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, role: str, pid: int, done: float, size_bytes: int, *, follow: bool) -> None:
        self.peaks[role] = max(self.peaks.get(role, 0), size_bytes)
        if follow:
            self.lives[role][pid].append((done, size_bytes))

    def take(self, other: Memory, *, scale: float) -> None:
        """Add the samples of another `Memory`, whose `done` is scaled."""
        for role, lives in other.lives.items():
            for pid, life in lives.items():
                for done, size_bytes in life:
                    self.add(role, pid, done * scale, size_bytes, follow=True)

    def growth(self, role: str, *, begin: float = SETTLED) -> float | None:
        """Return the growth of a role's process over a whole job, in bytes.

        The slope of least squares from `begin` on, one for all its lives: each has a level of its
        own.
        """
        return slope(
            [
                [(done, size) for done, size in life if done >= begin]
                for life in self.lives[role].values()
            ]
        )


def slope(lives: Iterable[list[tuple[float, int]]]) -> float | None:
    """Return the common slope of several lines of different heights; None without two points."""
    product = square = 0.0
    for life in lives:
        if life:
            x, y = np.array(life, dtype=float).T
            product += float(((x - x.mean()) * (y - y.mean())).sum())
            square += float(((x - x.mean()) ** 2).sum())
    return product / square if square else None


def resident_bytes(pid: int) -> int | None:
    """Return the resident bytes of a process; None if it ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * _PAGE_BYTES or None  # a zombie has none


class MemorySampler:
    """Context manager that fills a `Memory` from a thread."""

    def __init__(self, memory: Memory, processes: Processes, done: Callable[[], float]) -> None:
        self._memory = memory
        self._processes = processes
        self._done = done
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            done = self._done()
            for role, pid, follow in self._processes():
                size_bytes = resident_bytes(pid)
                if size_bytes is not None:
                    self._memory.add(role, pid, done, size_bytes, follow=follow)

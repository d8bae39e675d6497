"""What is to be fetched, in order, and what waits for another try."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    WAITING = "waiting"  # for a thread, and until `due_s`
    RUNNING = "running"
    DONE = "done"


@dataclass(eq=False, kw_only=True, slots=True)
class Pending:
    """One URL of a run of items."""

    url: str
    host: str
    position: int
    takers: int  # items with this URL
    state: State = State.WAITING
    due_s: float = 0.0
    wanted: bool = False  # somebody waits for it
    dropped: bool = False  # nobody will
    attempts: int = 0
    first_failure_s: float | None = None
    held_bytes: int = 0
    kept_waiting_s: float = 0.0  # its server, in this try, until there was room for its bytes
    data: bytes = b""
    error: Exception | None = None

    def is_due(self, now_s: float) -> bool:
        """Return whether it may be run now."""
        return self.state is State.WAITING and self.due_s <= now_s


@dataclass(eq=False, kw_only=True, slots=True)
class Queue:
    """URLs that wait: those that are due by their position, the others by when they are."""

    due: list[tuple[int, int, Pending]] = field(default_factory=list)
    later: list[tuple[float, int, Pending]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)  # no two jobs are compared

    def put(self, pending: Pending) -> None:
        heapq.heappush(self.later, (pending.due_s, next(self._numbers), pending))

    def first(self, now_s: float) -> Pending | None:
        """Return the first URL that is due, still in the queue."""
        while self.later and self.later[0][0] <= now_s:
            _, number, pending = heapq.heappop(self.later)
            heapq.heappush(self.due, (pending.position, number, pending))
        while self.due and not self.due[0][2].is_due(now_s):  # a taker runs it, or put it off
            heapq.heappop(self.due)
        return self.due[0][2] if self.due else None

    def wait_s(self, now_s: float) -> float | None:
        """Return how long until the next URL is due; None if none is to come."""
        return max(0.0, self.later[0][0] - now_s) if self.later else None

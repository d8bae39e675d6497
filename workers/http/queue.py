"""The queue of URLs: due ones in the order of their items, others by their next attempt."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    WAITING = "waiting"  # for `due_s`, then for a thread
    RUNNING = "running"
    DONE = "done"


@dataclass(eq=False, kw_only=True, slots=True)
class Pending:
    """One URL of a shard, and the state of its fetch."""

    url: str
    host: str
    position: int
    users: int  # items with this URL that have not taken its body
    state: State = State.WAITING
    due_s: float = 0.0
    wanted: bool = False  # a caller of `take` waits for it
    dropped: bool = False  # the shard is not read any more
    attempts: int = 0
    first_failure_s: float | None = None
    held_bytes: int = 0
    blocked_s: float = 0.0  # time of this attempt spent without room, not reading from the server
    data: bytes = b""
    error: Exception | None = None

    def is_due(self, now_s: float) -> bool:
        """Return whether the URL may be fetched now."""
        return self.state is State.WAITING and self.due_s <= now_s


@dataclass(eq=False, kw_only=True, slots=True)
class Queue:
    """Waiting URLs: due ones sorted by position, the others by the time when they are due."""

    due: list[tuple[int, int, Pending]] = field(default_factory=list)
    later: list[tuple[float, int, Pending]] = field(default_factory=list)
    _numbers: Iterator[int] = field(
        default_factory=itertools.count
    )  # breaks ties: Pending has no order

    def put(self, pending: Pending) -> None:
        heapq.heappush(self.later, (pending.due_s, next(self._numbers), pending))

    def first(self, now_s: float) -> Pending | None:
        """Return the first URL that is due; it stays in the queue."""
        while self.later and self.later[0][0] <= now_s:
            _, number, pending = heapq.heappop(self.later)
            heapq.heappush(self.due, (pending.position, number, pending))
        while self.due and not self.due[0][2].is_due(now_s):  # the caller of `take` fetched it
            heapq.heappop(self.due)
        return self.due[0][2] if self.due else None

    def wait_s(self, now_s: float) -> float | None:
        """Return the seconds until the next URL is due; None if no URL waits."""
        return max(0.0, self.later[0][0] - now_s) if self.later else None

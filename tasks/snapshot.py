"""A snapshot of a running job, as numbers and as one line of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The progress of a job: `done` counts vectors and errors, `items_per_s` is of the last 15 s.

    `stall_reason` is set if nothing progresses and the reason is known. Before the first shard is
    queued, the `phase` is "reading the plan" of earlier jobs or "planning" the source: `done` then
    counts the rows that were read, and `total` is 0, because nobody knows it.
    """

    total: int
    done: int
    errors: int
    items_per_s: float
    stall_reason: str | None = None
    phase: str | None = None

    @property
    def time_left_s(self) -> float | None:
        """Seconds until all items are done at this rate; None while none gets done."""
        if self.items_per_s <= 0:
            return None
        return (self.total - self.done) / self.items_per_s


Show = Callable[[Snapshot], None]


def show_nothing(_: Snapshot) -> None:
    """Show no progress."""


def sentence(snapshot: Snapshot) -> str:
    """Return the snapshot as one line of plain text."""
    if snapshot.phase:
        return f"{snapshot.phase}: {snapshot.done:,} rows, {snapshot.items_per_s:,.0f}/s"
    parts = [
        f"{snapshot.done:,}/{snapshot.total:,} items",
        f"{snapshot.items_per_s:,.0f}/s",
        f"{snapshot.errors:,} failed",
    ]
    if snapshot.time_left_s is not None and snapshot.done < snapshot.total:
        parts.append(f"{duration(snapshot.time_left_s)} left")
    if snapshot.stall_reason:
        parts.append(f"stalled: {snapshot.stall_reason}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as 5 s, 2 min 5 s or 3 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

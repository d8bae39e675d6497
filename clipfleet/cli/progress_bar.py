"""How a running job is shown: live on a terminal, plain lines elsewhere, nothing for machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_LINE_INTERVAL_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a job is; `done` counts vectors and errors, `items_per_s` the last seconds.

    `trouble` is why nothing goes on, where that is known.
    """

    total: int
    done: int
    errors: int
    items_per_s: float
    trouble: str | None = None

    @property
    def time_left_s(self) -> float | None:
        if self.items_per_s <= 0:
            return None
        return (self.total - self.done) / self.items_per_s


Show = Callable[[Snapshot], None]


def sentence(snapshot: Snapshot) -> str:
    """Return the snapshot as one line of plain text."""
    parts = [
        f"{snapshot.done:,}/{snapshot.total:,} items",
        f"{snapshot.items_per_s:,.0f}/s",
        f"{snapshot.errors:,} failed",
    ]
    if snapshot.time_left_s is not None and snapshot.done < snapshot.total:
        parts.append(f"{duration(snapshot.time_left_s)} left")
    if snapshot.trouble:
        parts.append(f"stalled: {snapshot.trouble}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as 5 s, 2 min 5 s or 3 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def open_display(*, quiet: bool) -> Iterator[Show]:
    """Yield the function that shows a snapshot: on standard error, so that pipes stay clean."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _live(console) as show:
            yield show
    else:
        yield _plain_lines()


@contextmanager
def _live(console: Console) -> Iterator[Show]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("items", total=None, rest="starting")

        def show(snapshot: Snapshot) -> None:
            rest = sentence(snapshot).partition(", ")[2]
            progress.update(bar, total=snapshot.total, completed=snapshot.done, rest=rest)

        yield show


def _plain_lines() -> Show:
    last_s = -_LINE_INTERVAL_S

    def show(snapshot: Snapshot) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _LINE_INTERVAL_S or snapshot.done >= snapshot.total:
            last_s = now_s
            sys.stderr.write(sentence(snapshot) + "\n")
            sys.stderr.flush()

    return show

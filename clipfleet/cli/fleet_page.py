"""The page of `clipfleet status --watch` on a terminal: a fleet, and perhaps a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipfleet.cli.progress_bar import every_few_seconds, open_display
from clipfleet.storage.plan.failures import count_failures
from clipfleet.tasks.snapshot import sentence
from clipfleet.tasks.status.fleet import Fleet
from clipfleet.tasks.status.progress import Progress
from clipfleet.validation import printable

_SHOWN_WORKERS = 30
_COUNT_PAUSES = 20  # times as long as a count of errors takes

ShowFleet = Callable[[Fleet, Progress | None, Mapping[str, int]], None]


@contextmanager
def open_fleet_page(*, quiet: bool) -> Iterator[ShowFleet]:
    """Yield a function that shows a fleet, and perhaps a dataset with its errors by class."""
    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda *facts: live.update(fleet_page(*facts), refresh=True)
        return
    with open_display(quiet=quiet) as show_snapshot:
        say = every_few_seconds()

        def show(fleet: Fleet, progress: Progress | None, _: Mapping[str, int]) -> None:
            if progress is not None:
                show_snapshot(progress.snapshot())
            elif not quiet:
                say(fleet.head(), False)

        yield show


def fleet_page(fleet: Fleet, progress: Progress | None, classes: Mapping[str, int]) -> Group:
    """Return a fleet, and perhaps a dataset with its errors by class, for a terminal."""
    parts: list[Text | Table] = []
    if progress is not None:
        snapshot = progress.snapshot()
        bar = ProgressBar(total=max(1, snapshot.total), completed=snapshot.done, width=30)
        done = f"{sentence(snapshot)}; {progress.shards_done:,}/{progress.shards:,} shards"
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, done)
        parts += [Text(printable(progress.dataset.root), style="bold"), line, Text()]
    parts += [Text(fleet.head(), style="bold"), _workers(fleet), Text(), _queues(fleet)]
    if classes:
        parts += [Text(), _classes(classes)]
    # A dataset's refusals, or without one the fleet's: those of another dataset would mislead.
    refusals = fleet.refusals if progress is None else progress.refusals
    if refusals:
        last = refusals[-1]
        words = f"{len(refusals):,} messages refused, the last: {last.message}: {last.reason}"
        parts.append(Text(printable(words), style="red"))
    return Group(*parts)


def _workers(fleet: Fleet) -> Table:
    table = Table("worker", "GPU or runtime", "items", "items/s", "shard", box=None, pad_edge=False)
    for column in table.columns[2:4]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    for worker in fleet.workers[:_SHOWN_WORKERS]:
        running = ", ".join(f"{shard.done:,}/{shard.items:,}" for shard in worker.running)
        shard = f"{worker.shard} {running}".strip() or "none yet"
        table.add_row(
            Text(printable(worker.worker)),
            Text(printable(worker.gpu or worker.runtime)),
            f"{worker.items:,}",
            f"{worker.items_per_s:,.1f}",
            Text(printable(shard), overflow="fold"),
        )
    more = len(fleet.workers) - _SHOWN_WORKERS
    if more > 0:
        table.add_row(f"and {more:,} more", "", "", "", "")
    return table


def _queues(fleet: Fleet) -> Table:
    table = Table("queue", "waiting, by priority", "held", "deferred", box=None, pad_edge=False)
    for tower, lengths in fleet.queues.items():
        steps = ", ".join(f"{step}: {count:,}" for step, count in lengths.items())
        held, deferred = fleet.held[tower], fleet.deferred[tower]
        table.add_row(tower, steps or "none", f"{held:,}", f"{deferred:,}")
    return table


def _classes(classes: Mapping[str, int]) -> Table:
    table = Table("error", "items", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, count in classes.items():
        table.add_row(Text(printable(name), style="red"), f"{count:,}")
    return table


class ErrorClasses:
    """A dataset's errors by class, read again when there are more, in a twentieth of the time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._classes: dict[str, int] = {}
        self._counted = 0  # errors
        self._next_s = 0.0

    def now(self) -> dict[str, int]:
        """Return the counts, which may be those of a moment ago."""
        begin_s = time.monotonic()
        if self._progress.errors != self._counted and begin_s >= self._next_s:
            self._counted = self._progress.errors
            self._classes = dict(count_failures(self._progress.dataset))
            end_s = time.monotonic()
            self._next_s = end_s + _COUNT_PAUSES * (end_s - begin_s)
        return self._classes

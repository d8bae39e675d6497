"""Show a running job: live on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipfleet.tasks.fleet import Fleet
from clipfleet.tasks.progress import Show, Snapshot, sentence
from clipfleet.tasks.status import Progress as DatasetProgress
from clipfleet.validation import printable

_LINE_INTERVAL_S = 5.0
_SHOWN_WORKERS = 30

ShowFleet = Callable[[Fleet, DatasetProgress | None, Mapping[str, int]], None]


@contextmanager
def open_display(*, quiet: bool) -> Iterator[Show]:
    """Yield a function that shows a snapshot on standard error."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _live(console) as show:
            yield show
    else:
        yield _plain_lines()


@contextmanager
def open_fleet_page(*, quiet: bool) -> Iterator[ShowFleet]:
    """Yield a function that shows a fleet, and perhaps a dataset with its errors by class."""
    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda *facts: live.update(fleet_page(*facts), refresh=True)
        return
    with open_display(quiet=quiet) as show_snapshot:
        say = _every_few_seconds()

        def show(fleet: Fleet, progress: DatasetProgress | None, _: Mapping[str, int]) -> None:
            if progress is not None:
                show_snapshot(progress.snapshot())
            elif not quiet:
                say(fleet.head(), False)

        yield show


def fleet_page(fleet: Fleet, progress: DatasetProgress | None, classes: Mapping[str, int]) -> Group:
    """Return a fleet, and perhaps a dataset with its errors by class, for a terminal."""
    parts: list[Text | Table | ProgressBar] = []
    if progress is not None:
        snapshot = progress.snapshot()
        parts += [
            Text(printable(progress.dataset.root), style="bold"),
            ProgressBar(total=max(1, snapshot.total), completed=snapshot.done, width=60),
            Text(f"{sentence(snapshot)}; {progress.shards_done:,}/{progress.shards:,} shards\n"),
        ]
    parts += [Text(fleet.head(), style="bold"), _workers(fleet), _queues(fleet)]
    if classes:
        parts.append(_classes(classes))
    if fleet.refusals:
        last = fleet.refusals[-1]
        words = f"{len(fleet.refusals):,} messages refused, the last: {last.message}: {last.reason}"
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
    say = _every_few_seconds()
    return lambda snapshot: say(sentence(snapshot), snapshot.done >= snapshot.total)


def _every_few_seconds() -> Callable[[str, bool], None]:
    """Return a function that writes a line: at the end, and else if it wrote none just now."""
    last_s = -_LINE_INTERVAL_S

    def say(line: str, is_end: bool) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _LINE_INTERVAL_S or is_end:
            last_s = now_s
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return say

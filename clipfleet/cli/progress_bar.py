"""Show a running job: live on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from clipfleet.tasks.snapshot import Show, Snapshot, sentence

_LINE_INTERVAL_S = 5.0


@contextmanager
def open_display(*, quiet: bool, stays: bool = True) -> Iterator[Show]:
    """Yield a function that shows a snapshot on standard error; the bar vanishes or `stays`."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _live(console, stays=stays) as show:
            yield show
    else:
        yield _plain_lines()


@contextmanager
def _live(console: Console, *, stays: bool) -> Iterator[Show]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
    with Progress(*columns, console=console, transient=not stays) as progress:
        bar = progress.add_task("items", total=None, rest="starting")

        def show(snapshot: Snapshot) -> None:
            rest = sentence(snapshot)
            if not snapshot.phase:  # the bar has the number of items
                rest = rest.partition(", ")[2]
            total = None if snapshot.phase else snapshot.total
            progress.update(bar, total=total, completed=snapshot.done, rest=rest)

        yield show


def _plain_lines() -> Show:
    say = every_few_seconds()
    return lambda snapshot: say(
        sentence(snapshot), not snapshot.phase and snapshot.done >= snapshot.total
    )


def every_few_seconds() -> Callable[[str, bool], None]:
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

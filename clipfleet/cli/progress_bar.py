"""Show a running job: live on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from clipfleet.tasks.progress import Show, Snapshot, sentence

_LINE_INTERVAL_S = 5.0


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
def _live(console: Console) -> Iterator[Show]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("items", total=None, rest="starting")

        def show(snapshot: Snapshot) -> None:
            rest = sentence(snapshot).partition(", ")[2]
            progress.update(bar, total=snapshot.total, completed=snapshot.done, rest=rest)

        yield show


def _plain_lines() -> Show:
    say = every_few_seconds()
    return lambda snapshot: say(sentence(snapshot), snapshot.done >= snapshot.total)


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

"""The end of a command: its result on standard output, its files and its exit code."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import typer

import clipfleet
from clipfleet.errors import UsageError

if TYPE_CHECKING:
    from clipfleet import BothTowers, Retry, Summary

DONE, ITEMS_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
_STOPPING = (
    "clipfleet: stopping, the same command goes on: shards that are done are kept, and those that "
    "run get 10 s (a second signal stops them at once)"
)
GPU_LOST = 1  # unlike WRONG_USE: a supervisor may start the worker again


def print_result(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a command's result: one JSON object, or lines for people."""
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else "\n".join(lines))


def end_on_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: the command stops its processes first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM stop a command that goes on when it is run again, and say so at once.

    Its workers may finish the shards that they have begun, so the end comes seconds later.
    """
    is_stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not is_stopping:  # not by `print`: the signal may have come within one
            line_end = "\n" if os.isatty(2) else ""  # of a progress bar
            os.write(2, f"{line_end}{_STOPPING}\n".encode())
        is_stopping = True
        signal.default_int_handler(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def end_with(result: Summary | Retry | BothTowers[Summary], as_json: bool) -> NoReturn:
    """Print the result of a job and end the command.

    Raises:
        typer.Exit: Always, with the command's exit code.
    """
    print_result(result.to_json(), result.lines(), as_json)
    results = [result.img, result.txt] if isinstance(result, clipfleet.BothTowers) else [result]
    failed = any(isinstance(one, clipfleet.Summary) and not one.ok for one in results)
    raise typer.Exit(ITEMS_FAILED if failed else DONE)


def check_file_name(option: str, path: Path, suffix: str) -> None:
    """Refuse a new file of another kind, as a slip must not replace a picture or a table.

    Raises:
        UsageError: The name has another suffix, or there is no such folder.
    """
    if path.suffix.lower() != suffix:
        raise UsageError(f"{option} {path}: expected a name that ends with {suffix}")
    if not path.parent.is_dir():
        raise UsageError(
            f"{path}: there is no folder {path.parent}: make it, or choose another one"
        )

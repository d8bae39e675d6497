"""What a command leaves: its result on standard output, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import typer

DONE, ITEMS_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
GPU_LOST = 1  # a supervisor may start the worker again, as it may not one that was refused


def print_result(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a command's result: one JSON object, or lines for people."""
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else "\n".join(lines))


def run_here(
    job: Callable[..., Any],
    *,
    workers: int | None,
    gpus: str | None,
    own_redis: bool,
    as_json: bool,
) -> NoReturn:
    """Run a job of `clipfleet.tasks.local.run`, print its summary, and end the command.

    Raises:
        UsageError: There is no such GPU.
        typer.Exit: Always, with the command's exit code, where the job raised nothing.
    """
    from clipfleet.cli.progress_bar import open_display
    from clipfleet.gpus import choose_gpus

    with open_display(quiet=as_json) as show:
        summary = job(
            workers=workers or 1,
            gpus=choose_gpus(gpus) if gpus else (),
            own_redis=own_redis,
            show=show,
        )
    print_result(summary.to_json(), summary.lines(), as_json)
    raise typer.Exit(DONE if summary.ok else ITEMS_FAILED)

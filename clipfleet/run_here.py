"""A job on this machine, shown, and told of in the end: `clipfleet embed` and `retry --model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import typer

from clipfleet.command_results import DONE, ITEMS_FAILED, print_result


def run_here(
    job: Callable[..., Any],
    *,
    workers: int | None,
    gpus: str | None,
    own_redis: bool,
    as_json: bool,
) -> NoReturn:
    """Run a job of `tasks.one_shot`, print its summary, and end the command.

    Raises:
        UsageError: There is no such GPU.
        typer.Exit: Always, with the command's exit code, where the job raised nothing.
    """
    from clipfleet.display import open_display
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

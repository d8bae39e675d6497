"""The commands that look at a dataset: `clipfleet status` and `clipfleet verify`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import clipfleet
from clipfleet.cli.options import DatasetArgument, Json, RedisUrl, settings_from
from clipfleet.cli.output import DONE, ITEMS_FAILED, print_result

_WATCH_INTERVAL_S = 1.0


def status(
    dataset: Annotated[
        str, typer.Argument(metavar="JOB|DATASET", help="A dataset's folder, or DATASET:00001.")
    ],
    watch: Annotated[
        bool, typer.Option("--watch", help="Update until everything is done.")
    ] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Show how many items of a dataset are done, failed and open.

    Exits with 1 if items failed. With --watch, the command ends when the dataset is done, or when
    nothing is queued although shards are missing.

    \b
    clipfleet status /vectors/photos --watch
    clipfleet status /vectors/photos:00001 --json
    """
    from clipfleet.cli.progress_bar import open_display

    settings = settings_from(redis_url=redis_url)
    progress = clipfleet.status(dataset, settings=settings)
    if watch:
        with open_display(quiet=as_json) as show:
            while not progress.finished and not progress.stuck:
                show(progress.snapshot())
                time.sleep(_WATCH_INTERVAL_S)
                progress.refresh()
            show(progress.snapshot())
    print_result(progress.to_json(), progress.lines(), as_json)
    raise typer.Exit(ITEMS_FAILED if progress.errors else DONE)


def verify(dataset: DatasetArgument, as_json: Json = False) -> None:
    """Verify that a dataset has every item exactly once.

    An item is a vector or a row of the table of errors. All L2 norms are 1, and all vectors are of
    one model.

    \b
    clipfleet verify /vectors/photos && build-index /vectors/photos/parts
    """
    verification = clipfleet.verify(dataset, settings=settings_from())
    print_result(verification.to_json(), verification.lines(), as_json)
    raise typer.Exit(DONE if verification.ok else ITEMS_FAILED)

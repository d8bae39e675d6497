"""The command line: `clipfleet prepare | convert | build | embed | submit | worker | status | …`.

Exit codes: 0 done; 1 done, but items failed, a dataset is incomplete or of another space, or a
worker lost its GPU and may be started again; 2 wrong use or environment; 130 interrupted. Standard
output carries the result (one JSON object with --json), standard error everything else.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfleet import __version__
from clipfleet.cli import dataset_commands, embed_commands, error_commands, worker_command
from clipfleet.cli.models import bench_commands, engine_commands, prepare_command
from clipfleet.cli.options import Json, RedisUrl, settings_from
from clipfleet.cli.output import DONE, GPU_LOST, INTERRUPTED, WRONG_USE, print_result
from clipfleet.cli.retrieval import (
    evaluate_commands,
    export_commands,
    index_commands,
    search_commands,
)
from clipfleet.errors import ClipfleetError, GpuLostError

app = typer.Typer(
    help="Turn large corpora of images and texts into CLIP vectors in Parquet.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipfleet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn large corpora of images and texts into CLIP vectors in Parquet."""


def doctor(
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", help="Models to examine: names, folders or cards."),
    ] = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Check the parts that clipfleet needs on this machine.

    \b
    clipfleet doctor --model models/vit-b-16
    """
    from clipfleet.cli.models.doctor import examine

    checks = list(examine(settings_from(redis_url=redis_url), model or []))
    broken = any(check.state == "broken" for check in checks)
    lines = [
        f"{check.state:7} {check.name}: {check.detail}"
        + (f" → {check.remedy}" if check.remedy else "")
        for check in checks
    ]
    print_result(
        {"ok": not broken, "checks": [dataclasses.asdict(check) for check in checks]},
        lines,
        as_json,
    )
    raise typer.Exit(WRONG_USE if broken else DONE)


for _command in (
    prepare_command.prepare,
    engine_commands.convert,
    engine_commands.build,
    engine_commands.adopt,
    embed_commands.embed,
    embed_commands.submit,
    embed_commands.resume,
    worker_command.worker,
    dataset_commands.status,
    dataset_commands.metrics,
    dataset_commands.verify,
    dataset_commands.remove,
    dataset_commands.repair,
    dataset_commands.report,
    error_commands.errors,
    error_commands.retry,
    index_commands.index,
    search_commands.search,
    index_commands.serve,
    search_commands.similarity,
    export_commands.dedupe,
    evaluate_commands.evaluate,
    evaluate_commands.compare,
    evaluate_commands.muge,
    export_commands.compact,
    export_commands.export,
    bench_commands.bench,
    doctor,
):
    app.command()(_command)


@cache
def command_line() -> Any:
    """Return all commands as a group of Click, which takes a while to build."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; an error of clipfleet is printed as one line."""
    try:
        command_line()(standalone_mode=True)
    except ClipfleetError as error:
        typer.echo(f"clipfleet: {error}", err=True)
        sys.exit(GPU_LOST if isinstance(error, GpuLostError) else WRONG_USE)
    except KeyboardInterrupt:  # outside a command; inside one, typer exits with the same code
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001 - last handler of the process; exit code 1 would mean failed items
        traceback.print_exc()
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    main()

"""The commands about datasets and queues: `clipfleet status`, `metrics`, `verify` and `repair`."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipfleet
from clipfleet.cli.options import DatasetArgument, Json, RedisUrl, settings_from
from clipfleet.cli.output import DONE, ITEMS_FAILED, check_file_name, print_result
from clipfleet.errors import BrokerError, UsageError

if TYPE_CHECKING:
    from clipfleet.retrieval.index.freshness import Freshness
    from clipfleet.settings import Settings
    from clipfleet.tasks.status.progress import Progress

_WATCH_INTERVAL_S = 1.0


def status(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[JOB|DATASET]",
            help="A dataset's folder, or DATASET:00001; without one, the fleet alone.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Update until everything is done.")
    ] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Show how many items are done, failed and open, and the workers.

    Exits with 1 if items failed, other than removed ones, or if a shard is not done yet. With
    --watch, the command ends when the dataset is done, or says why nothing can move: Redis does not
    answer, no worker lives, or every missing shard was refused. On a terminal, --watch shows the
    fleet too: workers, queues, errors by class. Without a dataset it does so until Ctrl-C.

    \b
    clipfleet status /vectors/photos --watch
    clipfleet status /vectors/photos:00001 --json
    clipfleet status --watch
    """
    settings = settings_from(redis_url=redis_url)
    if dataset is None:
        _fleet_status(settings, watch=watch, as_json=as_json)
        raise typer.Exit(DONE)
    progress = clipfleet.status(dataset, settings=settings)
    if watch:
        _watch_dataset(progress, settings, quiet=as_json)
        if progress.stuck:
            typer.echo(f"clipfleet: nothing can move: {progress.stuck}", err=True)
    print_result(progress.to_json(), progress.lines(), as_json)
    failed = progress.errors > progress.removed
    raise typer.Exit(DONE if progress.finished and not failed else ITEMS_FAILED)


def metrics(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 9400,
    redis_url: RedisUrl = None,
) -> None:
    """Serve the metrics of a fleet's queues for Prometheus.

    It runs until SIGTERM. The metrics tell how much work waits, also while no worker runs. A worker
    serves its own metrics with --metrics-port. CLIPFLEET_METRICS_HOST is the address at which both
    listen: 127.0.0.1, unless it is set.

    \b
    clipfleet metrics --port 9400
    """
    from clipfleet.tasks.metrics.queues import serve_queue_metrics

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve_queue_metrics(settings_from(redis_url=redis_url, metrics_port=port), stop)


def _fleet_status(settings: Settings, *, watch: bool, as_json: bool) -> None:
    if watch and as_json:
        raise UsageError(
            "--watch without a dataset never ends: leave out --json, or name a dataset"
        )
    fleet = clipfleet.fleet(settings=settings)
    if not watch:
        print_result(fleet.to_json(), fleet.lines(), as_json)
        return
    from clipfleet.cli.fleet_page import open_fleet_page

    with open_fleet_page(quiet=False) as show:
        while True:
            show(fleet, None, {})
            time.sleep(_WATCH_INTERVAL_S)
            fleet.refresh()


def _watch_dataset(progress: Progress, settings: Settings, *, quiet: bool) -> None:
    """Show a dataset until it is done, or nothing can move."""
    from clipfleet.cli.fleet_page import ErrorClasses, open_fleet_page
    from clipfleet.tasks.status.fleet import Fleet

    fleet, classes = Fleet(settings), ErrorClasses(progress)
    with open_fleet_page(quiet=quiet) as show:
        while True:
            if not quiet and progress.broker_error is None:
                with suppress(BrokerError):  # `progress` asks again, and says so
                    fleet.refresh()
            show(fleet, progress, {} if quiet else classes.now())
            if progress.finished or progress.stuck:
                return
            time.sleep(_WATCH_INTERVAL_S)
            progress.refresh()


def report(
    dataset: DatasetArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page's file.", show_default="DATASET/report.html"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a dataset, as one HTML page.

    It needs no network. It tells how much was embedded and how fast, what failed and was left out,
    by which model and machines. `embed` writes it at its end.

    \b
    clipfleet report /vectors/photos
    clipfleet report /vectors/photos --out photos.html
    """
    if out is not None:
        check_file_name("--out", out, ".html")
    written = clipfleet.write_report(dataset, out)
    print_result({"report": written}, [written], as_json)


def verify(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|INDEX",
            help="A dataset: a folder or s3://bucket/prefix; or an index.",
        ),
    ],
    index: Annotated[
        str | None, typer.Argument(help="An index of the dataset, to be compared with it.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read names, footers and records; no row, no checksum.")
    ] = False,
    recompute: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Compute this fraction of the vectors again, with --model."
        ),
    ] = 0.0,
    model: Annotated[
        Path | None, typer.Option("--model", help="The dataset's own model, for --recompute.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify that a dataset has every item exactly once.

    Every byte is read, and compared with its checksum. An item is a vector or a row of the table of
    errors. All L2 norms are 1, and all vectors are of one model. Exits with 1 if the dataset is not
    whole; each problem names its remedy.

    Of an index, the files are compared with their checksums, the ids are counted, and its recall is
    measured again. With a dataset and an index, the command tells what the index lacks, and what it
    has that the dataset lost; nothing else is verified.

    \b
    clipfleet verify /vectors/photos && clipfleet index /vectors/photos /indexes/photos
    clipfleet verify /indexes/photos
    clipfleet verify /vectors/photos /indexes/photos
    clipfleet verify /vectors/photos --recompute 0.001 --model models/vit-b-16
    """
    settings = settings_from()
    verification: clipfleet.Verification | clipfleet.IndexVerification | Freshness
    is_index = (Path(dataset) / "index.json").is_file()
    if (is_index or index) and (quick or recompute or model):
        raise UsageError(
            f"{index or dataset} is an index: leave --quick, --recompute and --model out"
        )
    if index:
        from clipfleet.retrieval.index.freshness import freshness
        from clipfleet.storage.format.dataset import Dataset

        stored = Dataset.open(dataset, store_timeout_s=settings.store_timeout_s)
        verification = freshness(stored, index)
    elif is_index:
        verification = clipfleet.verify_index(dataset, settings=settings)
    else:
        verification = clipfleet.verify(
            dataset, quick=quick, recompute=recompute, model=model, settings=settings
        )
    print_result(verification.to_json(), verification.lines(), as_json)
    raise typer.Exit(DONE if verification.ok else ITEMS_FAILED)


def remove(
    dataset: DatasetArgument,
    ids: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE", help="Remove the ids in this file, one a line."),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Remove the ids whose files do not exist any more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be removed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take vectors out of a dataset.

    A removed id is a row of errors/, of the class `removed`, or `gone` if its file was deleted. The
    same source does not bring it back: `clipfleet retry --only removed` does, and newer content.
    Afterwards `clipfleet index --append` takes the rows out of an index.

    \b
    clipfleet remove /vectors/photos --missing --dry-run
    clipfleet remove /vectors/photos --ids unwanted.txt
    """
    if (ids is None) != missing:
        raise UsageError("name what to remove: --ids FILE, or --missing")
    removal = clipfleet.remove(
        dataset,
        ids=_read_ids(ids) if ids else (),
        missing=missing,
        dry_run=dry_run,
        settings=settings_from(),
    )
    print_result(removal.to_json(), removal.lines(), as_json)


def _read_ids(path: Path) -> list[str]:
    try:
        found = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error}): expected one id a line") from error
    if not found:
        raise UsageError(f"{path} has no id: expected one a line")
    return found


def repair(
    dataset: DatasetArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done.")
    ] = False,
    no_queue: Annotated[
        bool, typer.Option("--no-queue", help="Queue nothing; `clipfleet embed` does the rest.")
    ] = False,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Embed the shards of a dataset's damaged parts again.

    Verifies the dataset, moves damaged parts to _damaged/, writes records that differ from their
    parts again, and queues the missing shards, as `clipfleet resume` does. Exits with 1 if
    something is left to do by hand: single items to queue again, foreign files, a damaged plan.

    \b
    clipfleet repair /vectors/photos
    clipfleet repair vectors/photos --no-queue
    """
    done = clipfleet.repair(
        dataset, dry_run=dry_run, queue=not no_queue, settings=settings_from(redis_url=redis_url)
    )
    print_result(done.to_json(), done.lines(), as_json)
    raise typer.Exit(DONE if done.ok else ITEMS_FAILED)

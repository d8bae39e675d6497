"""The commands about items without a vector: `clipfleet errors` and `clipfleet retry`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import clipfleet
from clipfleet.cli.options import DatasetArgument, Gpus, Json, RedisUrl, UrlHosts, settings_from
from clipfleet.cli.output import DONE, ITEMS_FAILED, end_with, print_result, stop_on_signals
from clipfleet.error_codes import TOMBSTONES, TRANSIENT, TRANSIENT_CODES, chosen_classes
from clipfleet.errors import UsageError

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="CLASS", help="Only this error class, or all transient ones; repeatable."
    ),
]

ModelHere = Annotated[
    Path | None,
    typer.Option("--model", help="Run on this machine, with this model folder or engine."),
]


def errors(dataset: DatasetArgument, only: Only = None, as_json: Json = False) -> None:
    """Show the items that have no vector, by class of error.

    Exits with 1 if there are any but removed ones.

    \b
    clipfleet errors /vectors/photos
    clipfleet errors /vectors/photos --only missing --json
    """
    from clipfleet.storage.format.dataset import Dataset
    from clipfleet.storage.plan.failures import error_classes

    opened = Dataset.open(dataset, store_timeout_s=settings_from().store_timeout_s)
    found = error_classes(opened, chosen_classes(only or ()))
    count = sum(each.count for each in found.values())
    classes = {code: _as_json(each) for code, each in found.items()}
    lines = [line for code, each in found.items() for line in _lines(code, each)]
    print_result(
        {"dataset": opened.root, "errors": count, "classes": classes},
        [f"{opened.root}: {count:,} items without a vector", *lines],
        as_json,
    )
    raise typer.Exit(ITEMS_FAILED if found.keys() - TOMBSTONES else DONE)


def retry(
    dataset: DatasetArgument,
    only: Only = None,
    model: ModelHere = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --model: workers.", show_default="as embed")
    ] = None,
    gpus: Gpus = None,
    redis_url: RedisUrl = None,
    url_host: UrlHosts = None,
    as_json: Json = False,
) -> None:
    """Embed the items that have no vector once more.

    Items that succeed move from errors/ to parts/. Items that fail again keep one row, with the
    newest reason. With --model, the command starts a Redis and workers and verifies the dataset,
    as `clipfleet embed` does; without, it queues the items in Redis.

    \b
    clipfleet retry vectors/photos --model models/vit-b-16
    clipfleet retry /vectors/photos --only missing --only permission_denied
    clipfleet retry /vectors/web --only transient
    """
    if model is None and url_host:
        raise UsageError("--url-host is for workers on this machine: name the --model as well")
    if model is not None:
        stop_on_signals()
    from clipfleet.cli.progress_bar import open_display  # rich is slow to import

    with open_display(quiet=as_json or model is None) as show:
        done = clipfleet.retry(
            dataset,
            only=only or (),
            model=model,
            workers=workers,
            gpus=gpus,
            own_redis=redis_url is None,
            settings=settings_from(redis_url=redis_url, url_hosts=url_host or None),
            on_progress=show,
        )
    end_with(done, as_json)


def _as_json(found: Any) -> dict[str, Any]:
    item = {name: value for name, value in asdict(found.first.item).items() if value is not None}
    first = {**item, "message": found.first.message, "attempt": found.first.attempt}
    return {"count": found.count, "transient": found.first.error in TRANSIENT_CODES, "first": first}


def _lines(code: str, found: Any) -> list[str]:
    kind = f" ({TRANSIENT})" if code in TRANSIENT_CODES else ""
    first, value = found.first, found.first.item.uri
    where = f" ({value})" if value else ""  # not the text, which may be long
    return [
        f"  {found.count:,} × {code}{kind}",
        f"    first {first.item.id!r}{where}: {first.message}",
    ]

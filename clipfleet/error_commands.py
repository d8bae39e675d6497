"""The commands about items without a vector: `clipfleet errors` and `clipfleet retry`."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated, Any

import typer

from clipfleet.errors import UsageError
from clipfleet.jobs import BAD_ITEM, ERROR_CODES
from clipfleet.options import DatasetArgument, Json, RedisUrl
from clipfleet.settings import load_settings

NO_ERRORS, ERRORS = 0, 1

Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="CLASS", help="Only this class of error; may be repeated."),
]


def errors(dataset: DatasetArgument, only: Only = None, as_json: Json = False) -> None:
    """Show which items have no vector, by class of error; exits with 1 if there are any.

    \b
    clipfleet errors /vectors/photos
    clipfleet errors /vectors/photos --only missing --json
    """
    from storage.dataset import Dataset
    from storage.failures import error_classes

    opened = Dataset.open(dataset)
    found = error_classes(opened, _classes(only))
    count = sum(each.count for each in found.values())
    if as_json:
        classes = {code: _told(each) for code, each in found.items()}
        result = {"dataset": opened.root, "errors": count, "classes": classes}
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        lines = [line for code, each in found.items() for line in _lines(code, each)]
        typer.echo("\n".join([f"{opened.root}: {count:,} items without a vector", *lines]))
    raise typer.Exit(ERRORS if count else NO_ERRORS)


def retry(
    dataset: DatasetArgument,
    only: Only = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Queue the items that ended as errors once more, for workers that run elsewhere.

    What succeeds moves from errors/ to parts/; what fails again keeps one row, with its newest
    reason. `clipfleet embed` into the dataset runs what is queued here as well.

    \b
    clipfleet retry /vectors/photos
    clipfleet retry /vectors/photos --only missing --only permission_denied
    """
    from tasks.retry_errors import retry_errors

    chosen = _classes(only)
    if BAD_ITEM in chosen:
        raise UsageError(
            f"--only {BAD_ITEM}: nothing of such an item was kept that could be embedded; queue it "
            "under another id, in the right form"
        )
    done = retry_errors(dataset, chosen, settings=load_settings(redis_url=redis_url))
    typer.echo(json.dumps(done.to_json()) if as_json else "\n".join(done.lines()))


def _classes(only: Collection[str] | None) -> list[str]:
    """Return the classes that were named, each once.

    Raises:
        UsageError: One of them is none.
    """
    for name in only or ():
        if name not in ERROR_CODES:
            raise UsageError(f"--only {name}: no such class of error; {', '.join(ERROR_CODES)}")
    return list(dict.fromkeys(only or ()))


def _told(found: Any) -> dict[str, Any]:
    item = {name: value for name, value in asdict(found.first.item).items() if value is not None}
    first = {**item, "message": found.first.message, "attempt": found.first.attempt}
    return {"count": found.count, "first": first}


def _lines(code: str, found: Any) -> list[str]:
    first, value = found.first, found.first.item.uri
    where = f" ({value})" if value else ""  # a text may be a page long
    return [f"  {found.count:,} × {code}", f"    first {first.item.id!r}{where}: {first.message}"]

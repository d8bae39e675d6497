"""The commands about items without a vector: `clipfleet errors` and `clipfleet retry`."""

from __future__ import annotations

import signal
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfleet.cli.options import DatasetArgument, Gpus, Json, RedisUrl, UrlHosts
from clipfleet.cli.output import DONE, ITEMS_FAILED, print_result, run_here
from clipfleet.error_codes import BAD_ITEM, ERROR_CODES, TRANSIENT_CODES
from clipfleet.errors import UsageError
from clipfleet.settings import load_settings

TRANSIENT = "transient"  # the name, for `--only`, of all classes that may pass by themselves
_TRANSIENT = [code for code in ERROR_CODES if code in TRANSIENT_CODES]

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="CLASS", help="Only this class of error, or all transient; repeatable."
    ),
]

ModelHere = Annotated[
    Path | None, typer.Option("--model", help="Run here, with this model card or engine.")
]


def errors(dataset: DatasetArgument, only: Only = None, as_json: Json = False) -> None:
    """Show which items have no vector, by class of error; exits with 1 if there are any.

    \b
    clipfleet errors /vectors/photos
    clipfleet errors /vectors/photos --only missing --json
    """
    from clipfleet.storage.commit.errors import error_classes
    from clipfleet.storage.format.dataset import Dataset

    opened = Dataset.open(dataset, store_timeout_s=load_settings().store_timeout_s)
    found = error_classes(opened, _classes(only))
    count = sum(each.count for each in found.values())
    classes = {code: _told(each) for code, each in found.items()}
    lines = [line for code, each in found.items() for line in _lines(code, each)]
    print_result(
        {"dataset": opened.root, "errors": count, "classes": classes},
        [f"{opened.root}: {count:,} items without a vector", *lines],
        as_json,
    )
    raise typer.Exit(ITEMS_FAILED if count else DONE)


def retry(
    dataset: DatasetArgument,
    only: Only = None,
    model: ModelHere = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --model: worker processes.", show_default="1")
    ] = None,
    gpus: Gpus = None,
    redis_url: RedisUrl = None,
    url_host: UrlHosts = None,
    as_json: Json = False,
) -> None:
    """Embed the items that ended as errors once more: here, or by workers that run elsewhere.

    What succeeds moves from errors/ to parts/; what fails again keeps one row, with its newest
    reason. With --model this starts a Redis of its own and workers, as `clipfleet embed` does,
    and proves the dataset; without, it queues the items in Redis.

    \b
    clipfleet retry vectors/photos --model models/vit-b-16.img.fp32.onnx
    clipfleet retry /vectors/photos --only missing --only permission_denied
    clipfleet retry /vectors/web --only transient
    """
    chosen = _classes(only)
    if BAD_ITEM in chosen:
        raise UsageError(
            f"--only {BAD_ITEM}: nothing of such an item was kept that could be embedded; queue it "
            "under another id, in the right form"
        )
    settings = load_settings(redis_url=redis_url, url_hosts=url_host or None)
    if model is not None:
        from clipfleet.gpus import check_one_way
        from clipfleet.tasks.local.run import retry_here

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops what was started
        check_one_way(workers, gpus)
        job = partial(retry_here, dataset, chosen, model, settings=settings)
        run_here(job, workers=workers, gpus=gpus, own_redis=redis_url is None, as_json=as_json)
    # Without a model: `run_here` does not return.
    if workers or gpus or url_host:
        raise UsageError(
            "--workers, --gpus and --url-host are of workers here: name their --model as well"
        )
    from clipfleet.tasks.submit.retry_failed import retry_errors

    done = retry_errors(dataset, chosen, settings=settings)
    print_result(done.to_json(), done.lines(), as_json)


def _classes(only: Collection[str] | None) -> list[str]:
    """Return the classes that were named, each once; all transient ones have one name, too.

    Raises:
        UsageError: One of them is none.
    """
    found: dict[str, None] = {}
    for name in only or ():
        if name not in (*ERROR_CODES, TRANSIENT):
            known = ", ".join((*ERROR_CODES, TRANSIENT))
            raise UsageError(f"--only {name}: no such class of error; {known}")
        found |= dict.fromkeys(_TRANSIENT if name == TRANSIENT else [name])
    return list(found)


def _told(found: Any) -> dict[str, Any]:
    item = {name: value for name, value in asdict(found.first.item).items() if value is not None}
    first = {**item, "message": found.first.message, "attempt": found.first.attempt}
    return {"count": found.count, "transient": found.first.error in TRANSIENT_CODES, "first": first}


def _lines(code: str, found: Any) -> list[str]:
    kind = f" ({TRANSIENT})" if code in TRANSIENT_CODES else ""
    first, value = found.first, found.first.item.uri
    where = f" ({value})" if value else ""  # a text may be a page long
    return [
        f"  {found.count:,} × {code}{kind}",
        f"    first {first.item.id!r}{where}: {first.message}",
    ]

"""The commands that embed: `clipfleet embed`, `submit` and `resume`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

import clipfleet
from clipfleet.cli.options import (
    MIN_OVERLAP,
    AllowUnverified,
    ContentHash,
    Contexts,
    DatasetArgument,
    DecodeOption,
    Dtype,
    Gpus,
    Json,
    MaxFailed,
    MetricsPort,
    MinOverlap,
    Model,
    MovedFrom,
    OnConflictOption,
    OutArgument,
    OwnRedisUrl,
    ProviderName,
    RedisUrl,
    Refresh,
    Reuse,
    ShardSize,
    SourceArgument,
    SourceTowers,
    TowersName,
    UrlHosts,
    engine_settings,
    settings_from,
)
from clipfleet.cli.output import end_with, print_result, stop_on_signals
from clipfleet.cli.picture_options import with_picture_settings
from clipfleet.cli.source_options import with_source_options
from clipfleet.errors import UsageError
from clipfleet.storage.sources.options import SourceOptions

_Result = TypeVar("_Result", "clipfleet.Summary", "clipfleet.Submission")


@with_source_options
@with_picture_settings
def embed(
    source: SourceArgument,
    out: OutArgument,
    model: Model,
    tower: SourceTowers = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers.", show_default="1; with TensorRT, 1 for each GPU"),
    ] = None,
    gpus: Gpus = None,
    redis_url: OwnRedisUrl = None,
    shard_size: ShardSize = None,
    dtype: Dtype = None,
    decode: DecodeOption = None,
    max_failed: MaxFailed = None,
    refresh: Refresh = False,
    on_conflict: OnConflictOption = None,
    moved_from: MovedFrom = None,
    content_hash: ContentHash = False,
    reuse: Reuse = None,
    gate_sample: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|TABLE",
            help="With --decode gpu: your own images, 100 or more (the first 1,000 count); their "
            "nearest neighbours must stay, or nothing is embedded.",
        ),
    ] = None,
    min_overlap: MinOverlap = None,
    provider: Annotated[ProviderName | None, typer.Option(help="ONNX Runtime's provider.")] = None,
    contexts: Contexts = None,
    allow_unverified: AllowUnverified = False,
    url_host: UrlHosts = None,
    metrics_port: MetricsPort = None,
    as_json: Json = False,
    *,
    picture_settings: dict[str, Any],
    source_options: SourceOptions,
) -> None:
    """Embed a source on this machine, and verify the dataset.

    Starts a Redis and workers, and stops both at the end, also after Ctrl-C.
    The same command continues where the last one stopped. A source with other paths or texts for
    known ids needs --refresh, or --moved-from.

    \b
    clipfleet embed photos/ vectors/photos --model models/vit-b-16
    clipfleet embed captions.jsonl vectors/captions --model models/vit-b-16 --tower txt
    clipfleet embed photos/ vectors/photos --model models/vit-b-16 --gpus 0,2
    clipfleet embed products.parquet vectors/products --model models/vit-b-16 --tower both
    """
    stop_on_signals()
    if min_overlap is not None and gate_sample is None:
        raise UsageError("--min-overlap needs a sample: give --gate-sample too")
    settings = settings_from(
        shard_size=shard_size,
        embedding_dtype=dtype,
        decode=decode,
        max_failed=max_failed,
        redis_url=redis_url,
        url_hosts=url_host or None,
        metrics_port=metrics_port,
        **engine_settings(provider, contexts, allow_unverified),
        **picture_settings,
    )
    from clipfleet.cli.progress_bar import open_display  # rich is slow to import

    with open_display(quiet=as_json) as show:
        summary = _of(clipfleet.embed, tower)(
            source,
            out,
            model=model,
            workers=workers,
            gpus=gpus,
            own_redis=redis_url is None,
            refresh=refresh,
            on_conflict=on_conflict.value if on_conflict else None,
            moved_from=moved_from,
            content_hash=content_hash,
            reuse=reuse,
            gate_sample=gate_sample,
            min_overlap=MIN_OVERLAP if min_overlap is None else min_overlap,
            settings=settings,
            on_progress=show,
            **source_options,
        )
    end_with(summary, as_json)


@with_source_options
@with_picture_settings
def submit(
    source: SourceArgument,
    out: OutArgument,
    model: Model,
    tower: SourceTowers = None,
    redis_url: RedisUrl = None,
    shard_size: ShardSize = None,
    dtype: Dtype = None,
    decode: DecodeOption = None,
    max_failed: MaxFailed = None,
    refresh: Refresh = False,
    on_conflict: OnConflictOption = None,
    moved_from: MovedFrom = None,
    content_hash: ContentHash = False,
    as_json: Json = False,
    *,
    picture_settings: dict[str, Any],
    source_options: SourceOptions,
) -> None:
    """Plan a source, and queue its shards for a fleet's workers.

    Submitting the same source to the same dataset again queues only what is missing. A source with
    other paths or texts for known ids needs --refresh, or --moved-from.

    \b
    clipfleet submit photos/ /vectors/photos --model models/vit-b-16
    clipfleet submit captions.jsonl /vectors/captions --model models/vit-b-16 \\
        --refresh --on-conflict replace
    clipfleet submit /new/photos /vectors/photos --model models/vit-b-16 --moved-from /old/photos
    """
    settings = settings_from(
        shard_size=shard_size,
        embedding_dtype=dtype,
        decode=decode,
        max_failed=max_failed,
        redis_url=redis_url,
        **picture_settings,
    )
    from clipfleet.cli.progress_bar import open_display  # rich is slow to import

    with open_display(quiet=as_json, stays=False) as show:
        submission = _of(clipfleet.submit, tower)(
            source,
            out,
            model=model,
            refresh=refresh,
            on_conflict=on_conflict.value if on_conflict else None,
            moved_from=moved_from,
            content_hash=content_hash,
            settings=settings,
            on_progress=show,
            **source_options,
        )
    print_result(submission.to_json(), submission.lines(), as_json)


def resume(
    dataset: DatasetArgument,
    redis_url: RedisUrl = None,
    max_failed: MaxFailed = None,
    as_json: Json = False,
) -> None:
    """Queue the shards that a dataset misses again.

    Reads the plan and the manifest, not the source. Use it after Redis lost its data, after a
    submit was killed, or for refused shards once their cause is removed, or with a larger
    --max-failed. Shards that are queued or
    running are not queued again.

    \b
    clipfleet resume /vectors/photos
    """
    settings = settings_from(redis_url=redis_url, max_failed=max_failed)
    resumption = clipfleet.resume(dataset, settings=settings)
    print_result(resumption.to_json(), resumption.lines(), as_json)


def _of(
    run: Callable[..., _Result], tower: TowersName | None
) -> Callable[..., _Result | clipfleet.BothTowers[_Result]]:
    """Return what embeds or submits a source's items of one tower, or of both."""
    if tower is TowersName.both:
        return partial(clipfleet.both_towers, run)
    return partial(run, tower=tower.value if tower else None)

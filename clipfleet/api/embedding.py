"""What embeds a source or its failures, as functions: the command line is a thin cover of these.

Without `settings`, those of `clipfleet.load_settings()` are used. Redis is that of
`settings.redis_url`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clipfleet.errors import UsageError
from clipfleet.settings import Settings, load_settings
from clipfleet.settings.datasets import OnConflict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from clipfleet.architectures import Tower
    from clipfleet.storage.sources.options import SourceOptions
    from clipfleet.tasks.local.run import Summary
    from clipfleet.tasks.snapshot import Snapshot
    from clipfleet.tasks.submit.inputs import Items
    from clipfleet.tasks.submit.resume import Resumption
    from clipfleet.tasks.submit.retry_failed import Retry
    from clipfleet.tasks.submit.submit import Submission

OnProgress = Callable[["Snapshot"], None]


def embed(
    source: Items,
    out: str | Path,
    *,
    model: str | Path,
    tower: Tower | None = None,
    workers: int | None = None,
    gpus: str | None = None,
    own_redis: bool = True,
    refresh: bool = False,
    on_conflict: OnConflict | None = None,
    moved_from: str | Path | None = None,
    content_hash: bool = False,
    reuse: str | Path | None = None,
    gate_sample: str | Path | None = None,
    min_overlap: float = 0.95,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
    **source_options: Unpack[SourceOptions],
) -> Summary:
    """Embed a source on this machine into the dataset at `out`, and verify the dataset.

    The function starts a Redis server and workers, and stops both at the end, also after Ctrl-C.
    The same call again embeds only what is missing. An item that cannot be embedded becomes a row
    in the table of errors, see `Dataset.errors`; it raises nothing.

    Args:
        source: A folder of images, archives, a table (JSONL, JSON, CSV, TSV, Parquet, TXT), at a
            path or an s3://, gs://, hf:// or https:// URL; or items in memory:
            `{"id": …, "uri": …}` for images, `{"id": …, "text": …}` for texts.
        out: The dataset's folder, or `s3://bucket/prefix`. Its vectors (n, D) are stored as
            `settings.embedding_dtype`, float16 or float32, with L2 norms of 1.
        model: A model folder, of which the engine is taken that fits this machine, or its name,
            such as "ViT-B-16", see `settings.models`; or a model card, or the engine beside it.
        tower: With a folder: "img" or "txt". Without it, what `source` holds.
        workers: The number of workers; 1 by default, and with a TensorRT engine one for each GPU.
        gpus: One worker for each of these GPUs: "all", or numbers such as "0,2".
        own_redis: False uses the Redis of `settings.redis_url` instead of a new one.
        refresh: Also embed newer content of ids that the dataset has: other uris or texts in the
            source, without it such a source is refused; and the files of the dataset whose size or
            time differs from that of the file that was embedded.
        on_conflict: With `refresh`, the rule for ids that have vectors: "keep" them and count the
            conflicts, "replace" them, or "error". Without it, that of the settings. Ids without
            vectors always take newer content.
        moved_from: The folder of the source when it was planned, if it was moved since. Its images
            are not embedded again, and open shards find them at the present place.
        content_hash: A new dataset gets a column `content_hash`, the SHA-256 of each picture's or
            text's bytes, and equal bytes are embedded once. With `refresh`, all files of the
            dataset are read and compared by it, not by size and time.
        reuse: A dataset of the same model with content hashes: its vectors are copied instead of
            embedding equal bytes again. Sets `content_hash`.
        gate_sample: With `settings.decode` "gpu": a folder or table of your own images, which are
            embedded twice first. Nothing is embedded if the GPU changes their neighbours.
        min_overlap: With `gate_sample`: the share of their 10 nearest neighbours that must stay.
        settings: Without them, those of `load_settings()`.
        on_progress: Called with a `Snapshot` several times a second, also while a long source is
            planned.
        **source_options: How the source is read, such as `id_column="sku"`: see `SourceOptions`.

    Raises:
        UsageError: The source, the model, the dataset or a setting is wrong; or `gate_sample` has
            other neighbours when the GPU decodes it.
        BrokerError: Redis does not start or answer.
        EngineError: The workers do not start, or refuse a shard.
    """
    from clipfleet.gpus import gpus_of_workers, refuse_workers_with_gpus
    from clipfleet.model_card import load_card
    from clipfleet.storage.filesystem.locations import absolute
    from clipfleet.tasks.local.run import embed_source
    from clipfleet.tasks.snapshot import show_nothing
    from clipfleet.tasks.submit.inputs import open_inputs
    from clipfleet.tasks.submit.submit import PlanRules
    from clipfleet.workers.engines.model_folder import find_engine
    from clipfleet.workers.engines.model_location import locate_model

    chosen = _with_rule(settings or load_settings(), on_conflict, refresh=refresh)
    refuse_workers_with_gpus(workers, gpus)
    opened, card = open_inputs(
        source,
        locate_model(model, chosen),
        find=lambda folder, tower: find_engine(folder, tower, chosen),
        tower=tower,
        options=source_options,
    )
    if reuse is not None:
        chosen = chosen.model_copy(update={"reuse": absolute(str(reuse))})
    if gate_sample is not None:
        _check_decoder(str(gate_sample), card, min_overlap, chosen)
    return embed_source(
        opened,
        str(out),
        card,
        settings=chosen,
        rules=PlanRules(
            refresh=refresh,
            moved_from=None if moved_from is None else str(moved_from),
            content_hash=content_hash or chosen.reuse is not None,
        ),
        gpus=gpus_of_workers(load_card(card)[0], workers, gpus),
        own_redis=own_redis,
        show=on_progress or show_nothing,
    )


def submit(
    source: Items,
    out: str | Path,
    *,
    model: str | Path,
    tower: Tower | None = None,
    refresh: bool = False,
    on_conflict: OnConflict | None = None,
    moved_from: str | Path | None = None,
    content_hash: bool = False,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
    **source_options: Unpack[SourceOptions],
) -> Submission:
    """Plan a source into the dataset at `out`, and queue its shards for a fleet's workers.

    The arguments are those of `embed`; a worker reuses vectors by its own setting. `on_progress` is
    called while a long source is planned. The shards go to the Redis of `settings.redis_url`. The
    same call again queues only what is missing. Of a model folder, a TensorRT engine is taken, or
    without one the float32 ONNX: the fleet's workers need an engine of the same precision.

    Raises:
        UsageError: The source, the model, the dataset or a setting is wrong.
        BrokerError: Redis does not answer; the same call again goes on.
    """
    from clipfleet.tasks.snapshot import show_nothing
    from clipfleet.tasks.submit.inputs import open_inputs
    from clipfleet.tasks.submit.submit import PlanRules
    from clipfleet.tasks.submit.submit import submit as submit_source
    from clipfleet.workers.engines.model_folder import find_fleet_card
    from clipfleet.workers.engines.model_location import locate_model

    settings = _with_rule(settings or load_settings(), on_conflict, refresh=refresh)
    opened, card = open_inputs(
        source,
        locate_model(model, settings),
        find=find_fleet_card,
        tower=tower,
        options=source_options,
    )
    return submit_source(
        opened,
        str(out),
        card,
        settings=settings,
        rules=PlanRules(
            refresh=refresh,
            moved_from=None if moved_from is None else str(moved_from),
            content_hash=content_hash,
        ),
        show=on_progress or show_nothing,
    )


def resume(dataset: str | Path, *, settings: Settings | None = None) -> Resumption:
    """Queue the shards that a dataset misses, from its plan and manifest alone.

    Neither the source nor the model is needed. A shard that waits or runs is not queued again.

    Raises:
        DatasetError: There is no such dataset, or it is damaged.
        BrokerError: Redis does not answer.
    """
    from clipfleet.tasks.submit.resume import resume as resume_dataset

    return resume_dataset(str(dataset), settings=settings or load_settings())


def retry(
    dataset: str | Path,
    *,
    only: Collection[str] = (),
    model: str | Path | None = None,
    workers: int | None = None,
    gpus: str | None = None,
    own_redis: bool = True,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
) -> Summary | Retry:
    """Embed the items without a vector once more.

    With `model` the items are embedded on this machine, as by `embed`, and the dataset is
    verified: this returns a `Summary`. Without `model` they are queued for the workers of a fleet:
    this returns a `Retry`. An item that gets a vector leaves the table of errors.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        only: The classes of errors to retry, such as "missing"; "transient" stands for all
            transient classes. Without any, all classes but "bad_item", "removed" and "gone".
        model: The dataset's own model, to embed on this machine; as in `embed`.
        workers: As in `embed`; with `model` only.
        gpus: As in `embed`; with `model` only.
        own_redis: As in `embed`; with `model` only.
        settings: Without them, those of `load_settings()`.
        on_progress: As in `embed`; with `model` only.

    Raises:
        UsageError: There is no such dataset or class, or the model is another than the dataset's.
        BrokerError: Redis does not start or answer.
        EngineError: The workers do not start, or refuse a shard.
    """
    from clipfleet.error_codes import BAD_ITEM, chosen_classes
    from clipfleet.gpus import gpus_of_workers, refuse_workers_with_gpus
    from clipfleet.model_card import load_card
    from clipfleet.storage.format.dataset import Dataset
    from clipfleet.tasks.local.run import retry_here
    from clipfleet.tasks.snapshot import show_nothing
    from clipfleet.tasks.submit.retry_failed import retry
    from clipfleet.workers.engines.model_folder import find_engine
    from clipfleet.workers.engines.model_location import locate_model

    settings = settings or load_settings()
    classes = chosen_classes([only] if isinstance(only, str) else only)
    if BAD_ITEM in classes:
        raise UsageError(
            f"{BAD_ITEM}: nothing of such an item was kept that could be embedded; queue it again, "
            "in the right form, or mend its row and embed the table again with --refresh"
        )
    if model is None:
        if workers or gpus:
            raise UsageError("workers and gpus are for a retry on this machine: name the model too")
        return retry(str(dataset), classes, settings=settings)
    refuse_workers_with_gpus(workers, gpus)
    engine = locate_model(model, settings)
    if engine.is_dir():
        opened = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
        engine = find_engine(engine, opened.info.tower, settings)
    return retry_here(
        str(dataset),
        classes,
        engine,
        settings=settings,
        gpus=gpus_of_workers(load_card(engine)[0], workers, gpus),
        own_redis=own_redis,
        show=on_progress or show_nothing,
    )


def _check_decoder(sample: str, card: Path, min_overlap: float, settings: Settings) -> None:
    from clipfleet.storage.sources.sample import read_sample
    from clipfleet.tasks.local.decode_gate import check_decoder

    if settings.decode != "gpu":
        raise UsageError(
            "a gate's sample is for decoding on the GPU (--decode gpu): other pixels are Pillow's"
        )
    tower, items = read_sample(sample)
    if tower != "img":
        raise UsageError(f"the sample {sample} holds texts: give images, which the GPU decodes")
    check_decoder(items, card, min_overlap=min_overlap, settings=settings)


def _with_rule(settings: Settings, on_conflict: OnConflict | None, *, refresh: bool) -> Settings:
    if on_conflict is None:
        return settings
    if not refresh:
        raise UsageError("on_conflict is for a refresh: without one, changed items are refused")
    if on_conflict not in get_args(OnConflict):
        rules = ", ".join(get_args(OnConflict))
        raise UsageError(f"on_conflict is {on_conflict!r}: expected one of {rules}")
    return settings.model_copy(update={"on_conflict": on_conflict})

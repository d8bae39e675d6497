"""What looks after a dataset, as functions: the command line is a thin cover of these.

Without `settings`, those of `clipfleet.load_settings()` are used.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from clipfleet.errors import UsageError
from clipfleet.settings import Settings, load_settings

if TYPE_CHECKING:
    from clipfleet.storage.commit.remove import Removal
    from clipfleet.storage.compact.compact import Compaction
    from clipfleet.storage.verify.verification import Verification
    from clipfleet.tasks.status.progress import Progress
    from clipfleet.tasks.submit.repair import Repair


def remove(
    dataset: str | Path,
    *,
    ids: Collection[str] = (),
    missing: bool = False,
    dry_run: bool = False,
    settings: Settings | None = None,
) -> Removal:
    """Take vectors out of a dataset: those of some ids, or those whose files were deleted.

    A removed id is a row of the table of errors, of the class "removed", or "gone" for a deleted
    file. The same source does not bring it back; newer content of the id does, and a `retry` that
    names its class. Its uri or text stays in the plan and in its row.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        ids: The ids to remove. The dataset must have each of them.
        missing: Instead, remove the ids whose files do not exist. Call it where the files are.
        dry_run: Only count what would be removed.
        settings: Without them, those of `load_settings()`.

    Raises:
        UsageError: There is no such dataset or id; or no file exists, or whether one does cannot be
            told. Nothing is removed.
        DatasetError: The dataset is damaged, or other processes plan all the time.
        StorageError: The disk did not answer; the same call again goes on.
    """
    from clipfleet.storage.commit.remove import remove_ids, remove_missing
    from clipfleet.storage.format.dataset import Dataset

    if missing == bool(ids):
        raise UsageError("remove takes ids, or missing=True: expected one of them")
    settings = settings or load_settings()
    opened = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
    size = settings.items_in_shard()
    if missing:
        return remove_missing(opened, shard_size=size, dry_run=dry_run)
    chosen = [ids] if isinstance(ids, str) else ids
    return remove_ids(opened, chosen, shard_size=size, dry_run=dry_run)


def repair(
    dataset: str | Path,
    *,
    dry_run: bool = False,
    queue: bool = True,
    settings: Settings | None = None,
) -> Repair:
    """Verify a dataset, move its damaged parts to `_damaged/`, and queue the missing shards.

    A record or an errors table that differs from its part is written again. No plan has the items
    of a stream: the result has the items of its moved parts, which are to be queued again.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        dry_run: Only say what would be done.
        queue: False queues nothing and needs no Redis: `embed` embeds what is missing.
        settings: Without them, those of `load_settings()`.

    Raises:
        DatasetError: There is no dataset, or its `dataset.json` is damaged.
        BrokerError: Redis does not answer; the same call again goes on.
    """
    from clipfleet.tasks.submit.repair import repair as repair_dataset

    return repair_dataset(
        str(dataset), dry_run=dry_run, queue=queue, settings=settings or load_settings()
    )


def verify(
    dataset: str | Path,
    *,
    quick: bool = False,
    recompute: float = 0.0,
    model: str | Path | None = None,
    settings: Settings | None = None,
) -> Verification:
    """Read a whole dataset, and check it: its checksums, every planned id once, L2 norms of 1.

    `ok` of the result says whether the dataset is whole, `problems` names what is wrong, with the
    remedy. Memory stays flat, whatever the size of the dataset.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        quick: Read only names, footers and records; no row, and no checksum.
        recompute: The fraction of the vectors that `model` computes again, 0.001 for one in a
            thousand. The sample is always the same.
        model: The dataset's own model, as in `embed`; its engine is loaded into this process.
        settings: Without them, those of `load_settings()`.

    Raises:
        UsageError: `recompute` is no fraction, or is without `model` or with `quick`; or the model
            is another than the dataset's.
        DatasetError: There is no dataset, or its `dataset.json` is damaged.
        EngineError: The engine does not load, or fails.
    """
    from clipfleet.storage.format.dataset import Dataset
    from clipfleet.storage.verify.verify import verify_dataset

    settings = settings or load_settings()
    if not 0 <= recompute <= 1:
        raise UsageError(f"recompute is {recompute:g}: it is a fraction of the vectors, 0 to 1")
    if bool(recompute) != (model is not None):
        raise UsageError("recompute and model go together: a fraction, and the dataset's own model")
    if recompute and quick:
        raise UsageError("recompute reads rows, and quick reads none: leave one out")
    opened = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
    if model is None:
        return verify_dataset(opened, quick=quick)
    from clipfleet.workers.embedder import Embedder
    from clipfleet.workers.engines.model_folder import find_engine
    from clipfleet.workers.recompute import recompute as recompute_rows

    engine = find_engine(model, opened.info.tower, settings)
    one = {"model": str(engine), "tower": opened.info.tower, "decode": opened.info.decode}
    with Embedder.from_settings(settings.model_copy(update=one)) as embedder:
        opened.check_model(embedder.card)
        verification = verify_dataset(opened)
        recompute_rows(opened, embedder, recompute, verification)
    return verification


def status(dataset: str | Path, *, settings: Settings | None = None) -> Progress:
    """Return how far a dataset is, or one job of it (`DATASET:00001`).

    `refresh()` of the result looks again.

    Raises:
        DatasetError: There is no such dataset or job.
    """
    from clipfleet.tasks.status.progress import read_progress

    return read_progress(str(dataset), settings or load_settings())


def compact(
    dataset: str | Path,
    *,
    file_bytes: int = 256 << 20,
    sort_by_id: bool = False,
    settings: Settings | None = None,
) -> Compaction:
    """Put the small parts of a dataset on a disk into packs of up to `file_bytes`.

    A pack is a Parquet file with many parts. Readers and workers may run meanwhile: all packs
    appear in one step. Every part keeps its bytes, so nothing else about the dataset changes.
    Memory holds one pack, and the disk holds the small parts twice until the end. The same call
    finishes the work of a process that was killed. Without `settings`, those of `load_settings()`
    are used.

    With `sort_by_id` the parts in the packs stand in the order of their smallest ids, as strings,
    and parts in older packs too. Rows stay in their parts; `overlapping` of the result says how
    many parts overlap another one in their ids. If a worker changes a part meanwhile, all parts
    stay where they are.

    Raises:
        UsageError: The dataset is in an object store, its file system cannot exchange two folders,
            or `file_bytes` is below 1.
        DatasetError: There is no dataset, or a part, a record or a plan is damaged; nothing was
            changed.
        StorageError: The disk refused; compacting again is safe.
    """
    from clipfleet.storage.compact.compact import compact_dataset
    from clipfleet.storage.format.dataset import Dataset

    timeout_s = (settings or load_settings()).store_timeout_s
    opened = Dataset.open(str(dataset), store_timeout_s=timeout_s)
    return compact_dataset(opened, file_bytes=file_bytes, sort_by_id=sort_by_id)

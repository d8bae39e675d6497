"""Lost shards: which they are, and in which datasets a fleet looks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from clipfleet.errors import MessageError
from clipfleet.jobs import Shard
from storage.dataset import PLAN_FOLDER
from storage.filesystem import open_filesystem
from storage.queued import QUEUED_PATH, Queued
from tasks.output import dataset_root


def is_ours(queued: Queued, root: str, *, queue: str, output: str) -> bool:
    """Return whether a dataset at `root` was queued for this fleet, under this place's name.

    One that was copied or moved still has the name of where it was.

    Raises:
        OSError, StorageError: The disk or the store of `output` does not answer, and it may be.
    """
    try:
        return queued.queue == queue and dataset_root(output, queued.dataset) == root
    except MessageError:  # also where a folder on its way may not be looked into
        return False


def lost_shards(
    open_shards: Iterable[Shard],
    queued: Queued,
    *,
    in_redis: Collection[str],
    refused: Collection[str],
) -> list[Shard]:
    """Return the open shards that were queued, and that neither Redis nor a worker has.

    Others are still being queued, or wait for room in the queue. A refused shard waits until
    somebody has mended the cause and resumes. `in_redis` must be older than the open shards:
    a shard is recorded before its message goes.
    """
    return [
        shard
        for shard in open_shards
        if queued.was_queued(shard) and shard.name not in in_redis and shard.name not in refused
    ]


def fingerprint_of(root: str) -> int:
    """Return what changes when a job is planned or queued, or a dataset is made anew.

    Raises:
        StorageError: The disk did not answer.
    """
    fs = open_filesystem(root)
    try:
        queued = fs.read(QUEUED_PATH)
    except FileNotFoundError:
        queued = b""
    return hash((tuple(fs.list(PLAN_FOLDER)), queued))

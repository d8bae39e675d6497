"""`clipfleet.index_shard`: the task that builds one shard of an index."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from celery import Task, shared_task

from clipfleet.errors import MessageError, UsageError
from clipfleet.messages import INDEX_SHARD_TASK, IndexShardTask
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.folder import SHARDS_FOLDER
from clipfleet.retrieval.index.plan import read_plan
from clipfleet.retrieval.index.shard_builder import build_shard
from clipfleet.retrieval.threads import threads_of
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import in_object_store, same_location
from clipfleet.storage.format.dataset import Dataset
from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.retry_policy import (
    lost_reason,
    may_retry,
    reason_of,
    retry_later,
    times_lost,
)
from clipfleet.tasks.worker.watchdog import working

_SHOWN_LENGTH = 100  # characters of a message's id

log = logging.getLogger(__name__)


def build_planned_shard(
    task: IndexShardTask, settings: Settings, *, progress: Callable[[], None]
) -> bool:
    """Build a shard; return False if it was built before, or its index needs it no longer.

    Raises:
        UsageError: The message is for another worker or dataset, or FAISS is not installed.
        TransientError: Worth trying again.
    """
    timeout_s = settings.store_timeout_s
    folder = _index_folder(settings, task.index)
    root = dataset_root(str(settings.output), task.dataset, store_timeout_s=timeout_s)
    plan = read_plan(folder)
    shards = {shard.name: shard for shard in plan.new_shards} if plan else {}
    if plan is None or task.shard not in shards:
        return False
    if not same_location(plan.dataset, root):
        raise MessageError(
            f"the message is for an index of {root}, and {folder} is one of {plan.dataset}"
        )
    if plan.codes:
        load_faiss()  # before its threads are limited
    dataset = Dataset.open(root, store_timeout_s=timeout_s)
    with threads_of(settings):
        return build_shard(dataset, folder, plan, shards[task.shard], show=lambda _: progress())


def _index_folder(settings: Settings, index: str) -> Path:
    """Return the folder of an index, with symbolic links resolved: it is below the root of indexes.

    Raises:
        MessageError: It is not, or its shards are elsewhere.
    """
    root = _index_root(settings)
    folder = Path(dataset_root(root, index))
    if not (folder / SHARDS_FOLDER).resolve().is_relative_to(Path(root).resolve()):
        raise MessageError(
            f"{SHARDS_FOLDER}/ of index {folder} is a symbolic link out of {root}: put the folder "
            "itself there"
        )
    return folder


def _index_root(settings: Settings) -> str:
    root = settings.index_root or str(settings.output)
    if in_object_store(root):
        raise MessageError(
            f"this worker writes into {root}, and an index lies in a folder: set "
            "CLIPFLEET_INDEX_ROOT to the folder of the indexes, which all workers share"
        )
    return root


class IndexShardTaskBase(Task[..., None]):
    """A task whose message the worker's parent refuses if its process dies too often."""

    Request = "clipfleet.tasks.shard_request:IndexShardRequest"


@shared_task(name=INDEX_SHARD_TASK, bind=True, base=IndexShardTaskBase)
def index_shard(self: IndexShardTaskBase, /, *args: Any, **message: Any) -> None:
    """Build the shard of a message, retry it later, or refuse it."""
    settings = settings_of(self.app)
    lost = times_lost((self.request.properties or {}).get("delivery_info"))
    started_s = time.monotonic()
    names = names_of(self.request.id, message)
    try:
        if args:
            raise MessageError(
                f"{INDEX_SHARD_TASK} takes keyword arguments only, not {len(args)} others"
            )
        task = IndexShardTask.from_json(message)
        if lost >= settings.shard_attempts:
            raise UsageError(lost_reason(lost))
        with working().at_work():
            built = build_planned_shard(task, settings, progress=working().progress)
    except UsageError as error:
        refuse(settings, *names, reason=reason_of(error))
    except Exception as error:  # the edge of the task: no error may lose the message
        if not may_retry(error, self.request.retries + 1, settings.shard_attempts):
            log.exception("shard of an index failed for the last time")
            refuse(settings, *names, reason=reason_of(error))
        else:
            retry_later(self, error, named=" of ".join(names))
    else:
        fields = {"index": task.index, "shard": task.shard, "built": built}
        seconds = round(time.monotonic() - started_s, 3)
        log.info("shard of an index done", extra={**fields, "seconds": seconds})


def names_of(id_: object, message: Mapping[str, Any]) -> tuple[str, str]:
    """Return a message's name for a refusal, and its index; the message may be malformed."""
    try:
        task = IndexShardTask.from_json(dict(message))
    except MessageError:
        return f"message {str(id_)[:_SHOWN_LENGTH]}", ""
    return f"shard {task.shard}", task.index

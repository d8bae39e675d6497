"""`clipfleet.embed`: the task that embeds one shard of a plan."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from celery import Task, shared_task

from clipfleet.errors import GpuLostError, MessageError, UsageError
from clipfleet.messages import EMBED_TASK, MAX_DATASET_LENGTH, EmbedTask, Shard
from clipfleet.model_card import ModelCard
from clipfleet.storage.commit.commit import commit, complete, is_committed
from clipfleet.storage.commit.record import Commit
from clipfleet.storage.format.dataset import Dataset, describe
from clipfleet.storage.plan.shard_work import read_shard_work
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.max_failed import read_limit
from clipfleet.tasks.retry_policy import (
    lost_reason,
    may_retry,
    reason_of,
    retry_later,
    times_lost,
)
from clipfleet.tasks.telemetry import headers_of, measured
from clipfleet.tasks.worker.engine_processes import process_name
from clipfleet.tasks.worker.fatal_error import gpu_lost
from clipfleet.tasks.worker.watchdog import working
from clipfleet.workers.copies.fingerprints import Fingerprints
from clipfleet.workers.embedder import Embedder, current_embedder

_SHOWN_LENGTH = 100  # characters of a message's id

log = logging.getLogger(__name__)


class LostShardError(UsageError):
    """The process or the worker of a shard was lost too often."""


def embed_shard(
    task: EmbedTask,
    embedder: Embedder,
    *,
    worker: str,
    lost: int = 0,
) -> Commit | None:
    """Embed and commit a shard; return None if it was committed before.

    `lost`: how often its process, or its worker, was lost. The embedder's tally is clear: what it
    measures here is in the part.

    Raises:
        LostShardError: `lost` reached `shard_attempts`.
        TooManyFailedError: More items of the job failed than its limit allows.
        UsageError: The message is for another worker, model or dataset, or its plan is missing.
        TransientError: Worth trying again.
        GpuLostError: This process can embed nothing any more.
    """
    store_timeout_s = embedder.settings.store_timeout_s
    output = str(embedder.settings.output)
    root = dataset_root(output, task.dataset, store_timeout_s=store_timeout_s)
    dataset = Dataset.open(root, store_timeout_s=store_timeout_s)
    _check_model(task, dataset, embedder.card)
    dataset.check_decode(embedder.settings.decode)
    name = task.shard.name
    if is_committed(dataset, name):
        return None
    done = complete(dataset, name)  # a worker died between the part and its record
    if done is not None:
        return done
    if lost >= embedder.settings.shard_attempts:
        raise LostShardError(lost_reason(lost))
    limit = read_limit(dataset, task.dataset, task.shard.job)
    if limit is not None:
        limit.check(embedder.settings)
    tally = embedder.tally
    with tally.measure("plan"):
        work = read_shard_work(dataset, task.shard)
        fingerprints = Fingerprints.of(dataset, embedder.copies)
    progress = working().progress
    # What ended a process may be a file in the GPU's decoder, which runs in the process.
    embedded = embedder.embed(
        work.items,
        rules=dataset.info.rules,
        exact=lost > 0,
        progress=progress,
        fingerprints=fingerprints,
    )
    with tally.measure("write"):
        whole = replace(work.finish(embedded), seconds=tally.seconds())
        done = commit(dataset, name, whole, card=embedder.card, worker=worker)
    tally.count_items(embedded)
    if limit is not None:
        limit.add(done.errors, embedder.settings)
    return done


def _check_model(task: EmbedTask, dataset: Dataset, card: ModelCard) -> None:
    if task.model != card.identity or task.tower != card.tower:
        raise MessageError(
            f"the message is for {task.tower} model {task.model[:12]}, this worker serves "
            f"{describe(card)}: fleets of different models on one Redis need a queue_prefix each"
        )
    dataset.check_model(card)


class ShardTask(Task[..., None]):
    """A task whose message the worker's parent refuses if its process dies too often."""

    Request = "clipfleet.tasks.shard_request:ShardRequest"


@shared_task(name=EMBED_TASK, bind=True, base=ShardTask)
def embed(self: ShardTask, /, *args: Any, **message: Any) -> None:
    """Embed the shard of a message, retry it later, or refuse it."""
    embedder = current_embedder()
    attempts = embedder.settings.shard_attempts
    lost = times_lost((self.request.properties or {}).get("delivery_info"))
    started_s = time.monotonic()
    try:
        if args:
            raise MessageError(f"{EMBED_TASK} takes keyword arguments only, not {len(args)} others")
        task = EmbedTask.from_json(message)
        where = {"dataset": task.dataset, "shard": task.shard.name}
        traced = measured(embedder, "shard", headers=headers_of(self.request), attributes=where)
        with working().at_work(), traced:
            done = embed_shard(
                task,
                embedder,
                worker=process_name(self.request.hostname, embedder.settings),
                lost=lost,
            )
    except GpuLostError as error:
        gpu_lost(error)
    except UsageError as error:
        refuse(embedder.settings, *names_of(self.request.id, message), reason=reason_of(error))
    except Exception as error:  # the edge of the task: no error may lose the message
        names = names_of(self.request.id, message)
        if not may_retry(error, self.request.retries + 1, attempts):
            log.exception("shard failed for the last time")
            refuse(embedder.settings, *names, reason=reason_of(error))
        else:
            retry_later(self, error, named=" of ".join(names))
    else:
        _log_done(task, done, time.monotonic() - started_s)


def _log_done(task: EmbedTask, done: Commit | None, seconds: float) -> None:
    where = {"dataset": task.dataset, "shard": task.shard.name}
    if done is None:
        log.info("shard was done before", extra=where)
        return
    items = done.vectors + done.errors
    measured = {
        "items": items,
        "errors": done.errors,
        "cut": done.cut,
        "transparent": done.transparent,
        "without_end": done.without_end,
        "copied": done.copied,
        "seconds": round(seconds, 3),
        "items_per_s": round(items / max(seconds, 1e-9), 1),
    }
    log.info("shard embedded", extra={**where, **measured})


def names_of(id_: object, message: Mapping[str, Any]) -> tuple[str, str]:
    """Return a message's name for a refusal, and its dataset; the message may be malformed."""
    try:
        name = f"shard {Shard(**message['shard']).name}"
    except (LookupError, TypeError, ValueError):
        name = f"message {str(id_)[:_SHOWN_LENGTH]}"
    dataset = message.get("dataset")
    usable = isinstance(dataset, str) and len(dataset) <= MAX_DATASET_LENGTH
    return name, str(dataset) if usable else ""

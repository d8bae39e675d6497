"""`clipfleet.embed_items`: the task that embeds single items.

A message is `args=[[{"id", "uri"} | {"id", "text"}, …]], kwargs={"dataset": path}`; the dataset is
optional. The task runs in the worker's child process, with a batch of messages (see `receive`).
No plan has single items, so only a wrong message, or one for a planned dataset, is dropped.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Task, shared_task

from clipfleet.errors import (
    DatasetError,
    DatasetKindError,
    GpuLostError,
    MessageError,
    UsageError,
)
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.messages import EMBED_ITEMS_TASK, queue_name
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.commit.record import Commit
from clipfleet.storage.filesystem.locations import below
from clipfleet.storage.format.dataset import Dataset, single_items_name
from clipfleet.tasks.broker.conflicts import count_conflicts
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.dataset_access import check_new_root, dataset_root
from clipfleet.tasks.items.batcher import Batcher, GivenUp
from clipfleet.tasks.items.embed import Outcome, embed_single_items
from clipfleet.tasks.items.parse import read_single_items
from clipfleet.tasks.items.waiting import forget_waiting, record_waiting
from clipfleet.tasks.retry_policy import is_postponed, reason_of, requeue_batch
from clipfleet.tasks.telemetry import measured
from clipfleet.tasks.worker.engine_processes import process_name
from clipfleet.tasks.worker.fatal_error import gpu_lost
from clipfleet.tasks.worker.watchdog import working
from clipfleet.workers.embedder import Embedder, current_embedder

_SHOWN_IDS = 5  # of conflicts, in logs and refusals

log = logging.getLogger(__name__)


def open_dataset(embedder: Embedder, named: str | None) -> Dataset:
    """Return the dataset of a message; its first item creates it, with this worker's rules.

    Raises:
        MessageError: It lies outside the worker's output folder, or a dataset of this name would
            keep items out of another (`check_new_root`).
        DatasetKindError: It is planned.
        DatasetError: It is damaged, or of another model.
        StorageError: The disk or the object store did not answer, or forbids it.
    """
    settings, card = embedder.settings, embedder.card
    output, store_timeout_s = str(settings.output), settings.store_timeout_s
    name = single_items_name(card.tower) if named is None else named
    root = dataset_root(output, name, store_timeout_s=store_timeout_s)
    try:
        dataset = Dataset.open(root, store_timeout_s=store_timeout_s)
    except DatasetError:
        check_new_root(output, root, store_timeout_s=store_timeout_s)
        dataset = Dataset.create(
            root,
            card,
            kind="stream",
            embedding_dtype=settings.embedding_dtype,
            decode=settings.decode,
            rules=PictureRules.of(settings),
            store_timeout_s=store_timeout_s,
        )
    dataset.check_model(card)
    dataset.check_decode(settings.decode)
    check_kind(dataset, "stream")
    return dataset


class BatchedTask(Task[..., None]):
    """A task whose messages are batched."""

    Strategy = "clipfleet.tasks.items.receive:strategy"
    acks_on_failure = False  # after any error, the batch is queued again
    # Of the present connection, in the parent process.
    batcher: Batcher | None = None
    returns: Any = None  # the timer that brings deferred messages back


@shared_task(name=EMBED_ITEMS_TASK, bind=True, base=BatchedTask)
def embed_items(
    self: BatchedTask,
    items: list[Any],
    *,
    dataset: str | None,
    given_up: GivenUp | None = None,
) -> None:
    """Embed a batch, or requeue it: the parent process still holds its messages."""
    embedder = current_embedder()
    started_s = time.monotonic()
    try:
        traced = measured(embedder, "items", headers={}, attributes={"items": len(items)})
        with working().at_work(), traced:
            opened = open_dataset(embedder, dataset)
            single_items, faults = read_single_items(items, embedder.card.tower)
            outcome = embed_single_items(
                single_items,
                opened,
                embedder,
                worker=process_name(self.request.hostname, embedder.settings),
                given_up=given_up,
            )
    except GpuLostError as error:
        gpu_lost(error)
    except MessageError as error:  # the dataset is not in the output folder
        _refuse(embedder, "", len(items), reason_of(error))
    except DatasetKindError as error:  # it takes no single items
        _refuse(embedder, _root_of(embedder, dataset), len(items), reason_of(error))
    except Exception as error:  # noqa: BLE001 - the edge of the task; `requeue_batch` raises
        _log_failed(error, len(items), dataset)
        if is_postponed(error):
            root = _root_of(embedder, dataset)
            record_waiting(*_queue_of(embedder), dataset, root, reason_of(error))
        requeue_batch(error)
    else:
        forget_waiting(*_queue_of(embedder), dataset)
        for fault in faults:
            log.error("item refused", extra={"dataset": opened.root, "reason": fault})
        if faults:
            _refuse(embedder, opened.root, len(faults), faults[0])
        _tell_unwritten(embedder, opened, outcome)
        if given_up is not None:
            fields = {"dataset": opened.root, "items": len(items), "reason": given_up[1]}
            log.error("items given up: they are errors, see `clipfleet retry`", extra=fields)
        _log_done(len(items), outcome, opened, time.monotonic() - started_s)


def _root_of(embedder: Embedder, dataset: str | None) -> str:
    """Return the location of the dataset that a message names; None: the tower's stream."""
    name = single_items_name(embedder.card.tower) if dataset is None else dataset
    return below(str(embedder.settings.output), name)


def _queue_of(embedder: Embedder) -> tuple[str, str]:
    """Return the Redis and the queue of this worker."""
    settings = embedder.settings
    return settings.redis_url, queue_name(embedder.card.tower, settings.queue_prefix)


def _refuse(embedder: Embedder, dataset: str, items: int, reason: str) -> None:
    name = f"{items} items of {EMBED_ITEMS_TASK}"
    refuse(embedder.settings, name, dataset, reason=reason, planned=False)


def _tell_unwritten(embedder: Embedder, dataset: Dataset, outcome: Outcome) -> None:
    """Count the conflicts, and refuse the items that an operator must look at."""
    rule, conflicts, stuck = embedder.settings.on_conflict, outcome.conflicts, outcome.stuck
    if conflicts:
        fields = {"dataset": dataset.root, "items": len(conflicts), "ids": _some_ids(conflicts)}
        log.warning("ids have other content", extra={**fields, "on_conflict": rule})
        count_conflicts(embedder.settings, dataset.root, len(conflicts))
    if conflicts and rule == "error":
        reason = (
            f"these ids have other content already: {_some_ids(conflicts)}; queue the items under "
            "other ids, or set CLIPFLEET_ON_CONFLICT=replace and queue them again"
        )
        _refuse(embedder, dataset.root, len(conflicts), reason)
    if stuck:
        reason = (
            f"these ids are in a retry that is not embedded: {_some_ids(stuck)}; "
            f"`clipfleet resume {dataset.root}` queues it, then queue the items again"
        )
        _refuse(embedder, dataset.root, len(stuck), reason)


def _some_ids(items: list[Item]) -> str:
    shown = ", ".join(repr(item.id) for item in items[:_SHOWN_IDS])
    return shown + (", …" if len(items) > _SHOWN_IDS else "")


def _log_failed(error: Exception, items: int, dataset: str | None) -> None:
    fields = {"items": items, "dataset": dataset, "reason": reason_of(error)}
    if isinstance(error, UsageError):  # its reason names the remedy
        log.error("items wait: this worker cannot write to their dataset", extra=fields)
    else:
        log.warning("items failed", extra=fields)


def _log_done(received: int, outcome: Outcome, dataset: Dataset, seconds: float) -> None:
    commits: list[Commit] = outcome.commits
    items = sum(done.vectors + done.errors for done in commits)
    measured = {
        "items": items,
        "errors": sum(done.errors for done in commits),
        "cut": sum(done.cut for done in commits),
        "transparent": sum(done.transparent for done in commits),
        "without_end": sum(done.without_end for done in commits),
        "seconds": round(seconds, 3),
        "items_per_s": round(items / max(seconds, 1e-9), 1),
    }
    names = [done.name for done in commits]
    log.info(
        "items embedded",
        extra={
            "dataset": dataset.root,
            "parts": names,
            **measured,
            "conflicts": len(outcome.conflicts),
            "known": max(0, received - items - len(outcome.conflicts)),
        },
    )

"""`clipfleet.embed_items`: the task that embeds single items.

A message is `args=[[{"id", "uri"} | {"id", "text"}, …]], kwargs={"dataset": path}`; the dataset is
optional. The task runs in the worker's child process, with a batch of messages (see `receive`).
No plan has single items, so only a wrong message, or one for a planned dataset, is dropped.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from celery import Task, shared_task

from clipfleet.error_codes import BAD_ITEM
from clipfleet.errors import (
    DatasetError,
    DatasetKindError,
    GpuLostError,
    MessageError,
    UsageError,
)
from clipfleet.messages import EMBED_ITEMS_TASK
from clipfleet.storage.commit.commit import Commit
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.commit.single_items import KnownIds, catch_up, commit_single_items
from clipfleet.storage.format.dataset import Dataset, single_items_name
from clipfleet.storage.format.parts import Embedded, Failure
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.items.batcher import Batcher, GivenUp
from clipfleet.tasks.items.parse import SingleItem, read_single_items
from clipfleet.tasks.retry_policy import reason_of, requeue_batch
from clipfleet.tasks.worker.fatal_error import gpu_lost
from clipfleet.tasks.worker.watchdog import working
from clipfleet.workers.embedder import Embedder, current_embedder

_MAX_KNOWN = 8  # datasets whose ids stay in memory, up to 64 MB each

log = logging.getLogger(__name__)


def embed_single_items(
    single_items: Iterable[SingleItem],
    dataset: Dataset,
    embedder: Embedder,
    *,
    worker: str,
    isolated: bool = False,
    given_up: GivenUp | None = None,
) -> list[Commit]:
    """Embed the items that a dataset does not have, and commit them as parts of about a window.

    `isolated`: see `Embedder.embed`. If `given_up`, the items become failures without an attempt.

    Raises:
        UsageError: The dataset is damaged, or of another model.
        TransientError: Worth trying again; the parts that were committed stay.
        GpuLostError: This process can embed nothing any more; no item caused it.
    """
    known = known_ids(dataset)
    catch_up(dataset, known)
    new: dict[str, SingleItem] = {}
    for single in single_items:
        if single.item.id not in known:
            new.setdefault(single.item.id, single)
    commits = []
    for run in even_runs(list(new.values()), embedder.settings.window_items):
        embedded = _embed(run, embedder, isolated=isolated, given_up=given_up)
        # Leaves out the items that another worker wrote meanwhile.
        done = commit_single_items(dataset, known, embedded, card=embedder.card, worker=worker)
        if done is not None:
            commits.append(done)
    return commits


def even_runs(single_items: Sequence[SingleItem], window: int) -> Iterator[Sequence[SingleItem]]:
    """Yield runs of equal length: one for less than two windows, none for no item."""
    count = max(1, len(single_items) // window)
    length = -(-len(single_items) // count)
    for start in range(0, len(single_items), length or 1):
        yield single_items[start : start + length]


def _embed(
    run: Sequence[SingleItem],
    embedder: Embedder,
    *,
    isolated: bool,
    given_up: GivenUp | None,
) -> Embedded:
    valid = [one.item for one in run if not one.fault]
    failures = [Failure(item=o.item, error=BAD_ITEM, message=o.fault) for o in run if o.fault]
    if given_up is not None:
        code, reason = given_up
        failures += [Failure(item=item, error=code, message=reason) for item in valid]
        valid = []
    embedded = embedder.embed(valid, isolated=isolated, progress=working().progress)
    return replace(embedded, failures=[*embedded.failures, *failures])


_known: OrderedDict[tuple[str, str], KnownIds] = OrderedDict()  # in the order of use


def known_ids(dataset: Dataset) -> KnownIds:
    """Return the ids of a dataset that this process knows, as of the last refresh."""
    key = (dataset.root, dataset.info.created_at)  # it may be deleted and made again
    if key not in _known:
        _known[key] = KnownIds(dataset)
    _known.move_to_end(key)
    if len(_known) > _MAX_KNOWN:
        _known.popitem(last=False)[1].close()
    return _known[key]


def open_dataset(embedder: Embedder, named: str | None) -> Dataset:
    """Return the dataset of a message; its first item creates it.

    Raises:
        MessageError: It lies outside the worker's output folder.
        DatasetKindError: It is planned.
        DatasetError: It is damaged, or of another model.
    """
    settings, card = embedder.settings, embedder.card
    name = single_items_name(card.tower) if named is None else named
    store_timeout_s = settings.store_timeout_s
    root = dataset_root(str(settings.output), name, store_timeout_s=store_timeout_s)
    try:
        dataset = Dataset.open(root, store_timeout_s=store_timeout_s)
    except DatasetError:
        dataset = Dataset.create(
            root,
            card,
            kind="stream",
            embedding_dtype=settings.embedding_dtype,
            store_timeout_s=store_timeout_s,
        )
    dataset.check_model(card)
    check_kind(dataset, "stream")
    return dataset


class BatchedTask(Task[..., None]):
    """A task whose messages are batched."""

    Strategy = "clipfleet.tasks.items.receive:strategy"
    acks_on_failure = False  # after any error, the batch is queued again
    batcher: Batcher | None = None  # of the present connection, in the parent process


@shared_task(name=EMBED_ITEMS_TASK, bind=True, base=BatchedTask)
def embed_items(
    self: BatchedTask,
    items: list[Any],
    *,
    dataset: str | None,
    isolated: bool,
    given_up: GivenUp | None = None,
) -> None:
    """Embed a batch, or requeue it: the parent process still holds its messages."""
    embedder = current_embedder()
    started_s = time.monotonic()
    try:
        with working().at_work():
            opened = open_dataset(embedder, dataset)
            single_items, faults = read_single_items(items, embedder.card.tower)
            commits = embed_single_items(
                single_items,
                opened,
                embedder,
                worker=str(self.request.hostname),
                isolated=isolated,
                given_up=given_up,
            )
    except GpuLostError as error:
        gpu_lost(error)
    # The dataset is not in the output folder, or takes no single items.
    except (MessageError, DatasetKindError) as error:
        _refuse(embedder, "", len(items), reason_of(error))
    except Exception as error:  # noqa: BLE001 - the edge of the task; `requeue_batch` raises
        _log_failed(error, len(items), dataset)
        requeue_batch(error)
    else:
        for fault in faults:
            log.error("item refused", extra={"dataset": opened.root, "reason": fault})
        if faults:
            _refuse(embedder, opened.root, len(faults), faults[0])
        if given_up is not None:
            fields = {"dataset": opened.root, "items": len(items), "reason": given_up[1]}
            log.error("items given up: they are errors, see `clipfleet retry`", extra=fields)
        _log_done(len(items), commits, opened, time.monotonic() - started_s, isolated=isolated)


def _refuse(embedder: Embedder, dataset: str, items: int, reason: str) -> None:
    name = f"{items} items of {EMBED_ITEMS_TASK}"
    refuse(embedder.settings, name, dataset, reason=reason, planned=False)


def _log_failed(error: Exception, items: int, dataset: str | None) -> None:
    fields = {"items": items, "dataset": dataset, "reason": reason_of(error)}
    if isinstance(error, UsageError):  # its reason names the remedy
        log.error("items wait: this worker cannot write to their dataset", extra=fields)
    else:
        log.warning("items failed", extra=fields)


def _log_done(
    received: int, commits: list[Commit], dataset: Dataset, seconds: float, *, isolated: bool
) -> None:
    items = sum(done.vectors + done.errors for done in commits)
    measured = {
        "items": items,
        "errors": sum(done.errors for done in commits),
        "cut": sum(done.cut for done in commits),
        "isolated": isolated,
        "seconds": round(seconds, 3),
        "items_per_s": round(items / max(seconds, 1e-9), 1),
    }
    names = [done.name for done in commits]
    log.info(
        "items embedded",
        extra={"dataset": dataset.root, "parts": names, **measured, "known": received - items},
    )

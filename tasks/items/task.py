"""`clipfleet.embed_items`: the task that embeds items which arrive by themselves.

A message is `args=[[{"id", "uri"} | {"id", "text"}, …]], kwargs={"dataset": path}`, the
dataset optional. It comes here gathered with others (see `receive`), in the worker's
child process. Nothing but a wrong message, or one for a planned dataset, is dropped: no plan
has these items.
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
from clipfleet.tasks.items.batcher import Gatherer, GivenUp
from clipfleet.tasks.items.parse import Arrival, read_arrivals
from clipfleet.tasks.retry_policy import give_back, reason_of
from clipfleet.tasks.worker.fatal_error import gpu_lost
from clipfleet.tasks.worker.watchdog import working
from clipfleet.workers.embedder import Embedder, current_embedder

_MAX_KNOWN = 8  # datasets whose ids are kept; each may hold 64 MB

log = logging.getLogger(__name__)


def embed_arrivals(
    arrivals: Iterable[Arrival],
    dataset: Dataset,
    embedder: Embedder,
    *,
    worker: str,
    isolated: bool = False,
    given_up: GivenUp | None = None,
) -> list[Commit]:
    """Embed the items that a dataset does not have, and commit them as parts of a window or so.

    `isolated`: see `Embedder.embed`. Items that are `given_up` are failures, and not embedded.

    Raises:
        UsageError: The dataset is damaged, or of another model.
        TransientError: Worth trying again; what was committed until then is known.
        GpuLostError: This process can embed nothing any more; no item is to blame.
    """
    known = known_ids(dataset)
    catch_up(dataset, known)
    new: dict[str, Arrival] = {}
    for arrival in arrivals:
        if arrival.item.id not in known:
            new.setdefault(arrival.item.id, arrival)
    commits = []
    for run in even_runs(list(new.values()), embedder.settings.window_items):
        embedded = _embed(run, embedder, isolated=isolated, given_up=given_up)
        # Leaves out what another worker wrote meanwhile.
        done = commit_single_items(dataset, known, embedded, card=embedder.card, worker=worker)
        if done is not None:
            commits.append(done)
    return commits


def even_runs(arrivals: Sequence[Arrival], window: int) -> Iterator[Sequence[Arrival]]:
    """Yield runs of equal length: one if there are less than two windows, none if nothing."""
    count = max(1, len(arrivals) // window)
    length = -(-len(arrivals) // count)
    for start in range(0, len(arrivals), length or 1):
        yield arrivals[start : start + length]


def _embed(
    run: Sequence[Arrival],
    embedder: Embedder,
    *,
    isolated: bool,
    given_up: GivenUp | None,
) -> Embedded:
    sound = [a.item for a in run if not a.fault]
    failures = [Failure(item=a.item, error=BAD_ITEM, message=a.fault) for a in run if a.fault]
    if given_up is not None:
        code, reason = given_up
        failures += [Failure(item=item, error=code, message=reason) for item in sound]
        sound = []
    embedded = embedder.embed(sound, isolated=isolated, progress=working().progress)
    return replace(embedded, failures=[*embedded.failures, *failures])


_known: OrderedDict[tuple[str, str], KnownIds] = OrderedDict()  # the last used is the last


def known_ids(dataset: Dataset) -> KnownIds:
    """Return this process's ids of a dataset, as of their last refresh."""
    key = (dataset.root, dataset.info.created_at)  # it may be deleted and made anew
    if key not in _known:
        _known[key] = KnownIds(dataset)
    _known.move_to_end(key)
    if len(_known) > _MAX_KNOWN:
        _known.popitem(last=False)[1].close()
    return _known[key]


def open_dataset(embedder: Embedder, named: str | None) -> Dataset:
    """Return the dataset of a message; it is made when its first item comes.

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


class GatheredTask(Task[..., None]):
    """Its messages are gathered into batches."""

    Strategy = "clipfleet.tasks.items.receive:strategy"
    acks_on_failure = False  # whatever is raised, the batch is given back
    gatherer: Gatherer | None = None  # of the connection at hand, in the parent process


@shared_task(name=EMBED_ITEMS_TASK, bind=True, base=GatheredTask)
def embed_items(
    self: GatheredTask,
    items: list[Any],
    *,
    dataset: str | None,
    isolated: bool,
    given_up: GivenUp | None = None,
) -> None:
    """Run a batch, or give it back: its messages are still in the parent's hand."""
    embedder = current_embedder()
    started_s = time.monotonic()
    try:
        with working().at_work():
            opened = open_dataset(embedder, dataset)
            arrivals, faults = read_arrivals(items, embedder.card.tower)
            commits = embed_arrivals(
                arrivals,
                opened,
                embedder,
                worker=str(self.request.hostname),
                isolated=isolated,
                given_up=given_up,
            )
    except GpuLostError as error:
        gpu_lost(error)
    # They name a dataset that is not in the output folder, or one that takes no single items.
    except (MessageError, DatasetKindError) as error:
        _refuse(embedder, "", len(items), reason_of(error))
    except Exception as error:  # noqa: BLE001 - the edge of the task: `give_back` raises it again
        _log_failed(error, len(items), dataset)
        give_back(error)
    else:
        for fault in faults:
            log.error("item refused", extra={"dataset": opened.root, "reason": fault})
        if faults:
            _refuse(embedder, opened.root, len(faults), faults[0])
        if given_up is not None:
            told = {"dataset": opened.root, "items": len(items), "reason": given_up[1]}
            log.error("items given up: they are errors, see `clipfleet retry`", extra=told)
        _log_done(len(items), commits, opened, time.monotonic() - started_s, isolated=isolated)


def _refuse(embedder: Embedder, dataset: str, items: int, reason: str) -> None:
    named = f"{items} items of {EMBED_ITEMS_TASK}"
    refuse(embedder.settings, named, dataset, reason=reason, planned=False)


def _log_failed(error: Exception, items: int, dataset: str | None) -> None:
    told = {"items": items, "dataset": dataset, "reason": reason_of(error)}
    if isinstance(error, UsageError):  # its reason has the way out
        log.error("items wait: this worker cannot write to their dataset", extra=told)
    else:
        log.warning("items failed", extra=told)


def _log_done(
    came: int, commits: list[Commit], dataset: Dataset, seconds: float, *, isolated: bool
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
        extra={"dataset": dataset.root, "parts": names, **measured, "known": came - items},
    )

"""Reconciling: the queue is a hint, and now and then Redis loses a message with its worker.

A thread in every worker's parent looks through the datasets in its output folder for shards
that were queued, are not done, and are not in Redis; in each interval, one worker of the fleet
does. What is lost in two looks, a few seconds apart, is queued again. So is, at once, what was
not queued yet because the queue was full.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from typing import Any

from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]
from redis.exceptions import LockError, ResponseError

from clipfleet.errors import ClipfleetError, MessageError
from clipfleet.messages import Shard, queue_name
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.filesystem.locations import STORE_TIMEOUT_S, open_filesystem, resolved
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.discovery import find_datasets
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, Queued, read_queued
from clipfleet.tasks.broker.redis_client import Client, connect, message_counts
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.log_once import Troubles
from clipfleet.tasks.submit.enqueue import (
    all_in_redis,
    broker_errors,
    digest,
    held,
    publish,
    queueing_lock,
)
from clipfleet.tasks.submit.feed import feed

QUIET_S = 3.0  # a message between two hands is in neither; it is not for so long
MAX_MESSAGES = 20_000  # a longer queue is not looked through: 250 ms
_JOIN_S = 5.0

NO_LOOK = "lost shards cannot be looked for"
NO_QUEUEING = "lost shards cannot be queued again"
NO_FEED = "shards that wait for room cannot be queued"

# What ends the look at one dataset. That Redis is out of reach ends it for all.
_ONE_DATASETS = (ClipfleetError, OSError, LockError, ResponseError, BatchPublishError)

log = logging.getLogger(__name__)


class Reconciler:
    """Queues lost shards again, from a thread of its own, while it is entered."""

    def __init__(self, settings: Settings, card: ModelCard) -> None:
        self._settings = settings
        self._card = card
        self._output = resolved(str(settings.output))  # as `dataset_root` has it
        self._queue = queue_name(card.tower, settings.queue_prefix)
        self._interval_s = settings.reconcile_interval_s
        self._store_timeout_s = settings.store_timeout_s
        self._settled: dict[str, int] = {}  # dataset → what its plan was when nothing was open
        self._troubles = Troubles()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def __enter__(self) -> Reconciler:
        if self._interval_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self.running:
            self._thread.join(_JOIN_S)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self._look_or_tell()

    def _look_or_tell(self) -> None:
        try:
            self.look()
        except ClipfleetError as error:
            self._troubles.tell(NO_LOOK, "", error)
        except Exception:  # the edge of the thread: its end would go unnoticed
            log.exception("look for lost shards failed")
        else:
            self._troubles.forget(NO_LOOK, "")

    def look(self) -> int:
        """Return how many shards were queued again; 0 if it is another worker's turn.

        Raises:
            BrokerError: Redis does not answer.
            StorageError: The output folder cannot be read.
        """
        settings = self._settings
        with broker_errors(settings), connect(settings.redis_url) as client:
            return self._look(client) if self._take_turn(client) else 0

    def _take_turn(self, client: Client) -> bool:
        """Return whether this worker is the one of its fleet to look in this interval."""
        # A little less, so that a worker that is alone looks each time.
        expiry_ms = max(1, int(self._interval_s * 900))
        return bool(client.set(f"{self._queue}.reconciler", 1, nx=True, px=expiry_ms))

    def _look(self, client: Client) -> int:
        with self._troubles.look():
            datasets = self._datasets()
            again = self._queue_lost(client, datasets)  # first: both are for the same room
            return again + sum(self._feed(client, dataset, queued) for dataset, queued in datasets)

    def _feed(self, client: Client, dataset: Dataset, queued: Queued) -> int:
        try:
            count = feed(client, dataset, queued, self._settings)
        except _ONE_DATASETS as error:
            self._troubles.tell(NO_FEED, dataset.root, error)
            return 0
        if count:
            log.info("shards queued, as there is room", extra=_told(dataset, count))
        return count

    def _queue_lost(self, client: Client, datasets: list[tuple[Dataset, Queued]]) -> int:
        suspects = self._lost(client, datasets)
        if not suspects or self._stopped.wait(min(QUIET_S, self._interval_s)):
            return 0
        return sum(
            self._queue_again(client, dataset, queued, {shard.name for shard in shards})
            for dataset, queued, shards in suspects
        )

    def _datasets(self) -> list[tuple[Dataset, Queued]]:
        """Return the datasets of this fleet that may have open shards."""
        found = find_datasets(self._output, store_timeout_s=self._store_timeout_s)
        if found.cut:
            told = "too many files to look through; give the datasets a folder of their own"
            self._troubles.tell(NO_LOOK, self._output, told)
        for root in self._settled.keys() - set(found.roots):
            del self._settled[root]
        opened = []
        for root in found.roots:
            try:
                fs = open_filesystem(root, store_timeout_s=self._store_timeout_s)
                fingerprint = fingerprint_of(fs)
                if self._settled.get(root) == fingerprint:
                    continue
                ours = self._open(root)
                if ours is None:
                    self._settled[root] = fingerprint
                else:
                    opened.append(ours)
            except (ClipfleetError, OSError) as error:  # this dataset's own
                self._troubles.tell(NO_LOOK, root, error)
        return opened

    def _open(self, root: str) -> tuple[Dataset, Queued] | None:
        dataset = Dataset.open(root, store_timeout_s=self._store_timeout_s)
        queued = read_queued(dataset)
        if (
            queued is None
            or dataset.info.model != self._card.identity
            or not is_ours(
                queued,
                root,
                queue=self._queue,
                output=self._output,
                store_timeout_s=self._store_timeout_s,
            )
        ):
            return None
        return dataset, queued

    def _lost(
        self, client: Client, datasets: Iterable[tuple[Dataset, Queued]]
    ) -> list[tuple[Dataset, Queued, list[Shard]]]:
        """Return the datasets with lost shards, and these."""
        datasets = list(datasets)
        if not datasets or sum(message_counts(client, self._queue)) > MAX_MESSAGES:
            return []
        refusals = Refusals(client, self._settings.queue_prefix)
        if refusals.full:  # which are refused cannot be told
            told = "too many refused messages: mend the cause, then resume"
            self._troubles.tell(NO_LOOK, self._queue, told)
            return []
        in_redis = all_in_redis(client, self._queue)  # before the files, see `lost_shards`
        found = []
        for dataset, queued in datasets:
            try:
                fingerprint = fingerprint_of(dataset.fs)
                open_shards = list(missing_shards(dataset))
            except (ClipfleetError, OSError) as error:
                self._troubles.tell(NO_LOOK, dataset.root, error)
                continue
            if not open_shards:
                self._settled[dataset.root] = fingerprint
            lost = lost_shards(
                open_shards,
                queued,
                in_redis=in_redis.get(digest(queued.dataset), ()),
                refused=refusals.shards_of(queued.dataset),
            )
            if lost:
                found.append((dataset, queued, lost))
        return found

    def _queue_again(
        self, client: Client, dataset: Dataset, queued: Queued, suspects: set[str]
    ) -> int:
        """Queue the suspects that are still lost, unless somebody queues shards of the dataset."""
        try:
            again = self._publish_again(client, dataset, queued, suspects)
        except _ONE_DATASETS as error:
            self._troubles.tell(NO_QUEUEING, dataset.root, error)
            return 0
        if again:
            told = {**_told(dataset, len(again)), "first": again[0].name}
            log.warning("lost shards queued again", extra=told)
        return len(again)

    def _publish_again(
        self, client: Client, dataset: Dataset, queued: Queued, suspects: set[str]
    ) -> list[Shard]:
        name = queued.dataset
        lock = queueing_lock(client, self._queue, name)
        with held(lock, wait=False) as mine:
            if not mine:
                return []
            lost = [s for *_, shards in self._lost(client, [(dataset, queued)]) for s in shards]
            again = [shard for shard in lost if shard.name in suspects]
            return list(publish(again, dataset, name, self._settings, lock))


def is_ours(
    queued: Queued,
    root: str,
    *,
    queue: str,
    output: str,
    store_timeout_s: float = STORE_TIMEOUT_S,
) -> bool:
    """Return whether the dataset at `root` was queued for this fleet, under this place's name.

    A dataset that was copied or moved still has the name of its first place.

    Raises:
        OSError, StorageError: The disk or the store of `output` does not answer, and it may be.
    """
    if queued.queue != queue:
        return False
    try:
        named = dataset_root(output, queued.dataset, store_timeout_s=store_timeout_s)
    except MessageError:  # also where a folder on its way may not be looked into
        return False
    return named == root


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


def fingerprint_of(fs: Filesystem) -> int:
    """Return what changes when a job is planned or queued, or a dataset is made anew.

    Raises:
        StorageError: The disk did not answer.
    """
    try:
        queued = fs.read(QUEUED_PATH)
    except FileNotFoundError:
        queued = b""
    return hash((tuple(fs.list(PLAN_FOLDER)), queued))


def _told(dataset: Dataset, shards: int) -> dict[str, Any]:
    return {"dataset": dataset.root, "shards": shards}

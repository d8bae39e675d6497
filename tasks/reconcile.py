"""Reconciling: the queue is a hint, and now and then Redis loses a message with its worker.

A thread in every worker's parent looks through the datasets in its output folder for shards
that were queued, are not done, and are not in Redis; in each interval, one worker of the fleet
does. What is lost in two looks, a few seconds apart, is queued again. So is, at once, what was
not queued yet because the queue was full.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]
from redis.exceptions import LockError, ResponseError

from clipfleet.card import ModelCard
from clipfleet.errors import ClipfleetError
from clipfleet.jobs import Shard, queue_name
from clipfleet.settings import Settings
from storage.dataset import Dataset
from storage.find_datasets import find_datasets
from storage.locations import resolved
from storage.manifest import missing_shards
from storage.queued import Queued, read_queued
from tasks.broker import Client, connect, message_counts
from tasks.feed import feed
from tasks.lost import fingerprint_of, is_ours, lost_shards
from tasks.queueing import (
    all_in_redis,
    broker_errors,
    digest,
    held,
    publish,
    queueing_lock,
)
from tasks.refusals import Refusals
from tasks.troubles import Troubles

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
        found = find_datasets(self._output)
        if found.cut:
            told = "too many files to look through; give the datasets a folder of their own"
            self._troubles.tell(NO_LOOK, self._output, told)
        for root in self._settled.keys() - set(found.roots):
            del self._settled[root]
        opened = []
        for root in found.roots:
            try:
                fingerprint = fingerprint_of(root)
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
        dataset = Dataset.open(root)
        queued = read_queued(dataset)
        if (
            queued is None
            or dataset.info.model != self._card.identity
            or not is_ours(queued, root, queue=self._queue, output=self._output)
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
                fingerprint = fingerprint_of(dataset.root)
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


def _told(dataset: Dataset, shards: int) -> dict[str, Any]:
    return {"dataset": dataset.root, "shards": shards}

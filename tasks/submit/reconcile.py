"""Reconciling: queue lost shards again.

Redis may lose a message together with its worker. A thread in every worker's parent process looks
through the datasets in the output folder for shards that were queued, are not done, and are not in
Redis; one worker of the fleet looks in each interval. A shard that is missing in two looks, a few
seconds apart, is queued again. A look also feeds the queue (`clipfleet.tasks.submit.feed`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable

from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]
from redis.exceptions import LockError, ResponseError

from clipfleet.errors import ClipfleetError, MessageError
from clipfleet.messages import Shard, queue_name
from clipfleet.model_card import ModelCard
from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import missing_shards
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.filesystem.locations import resolved
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S, open_filesystem
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.format.discovery import find_datasets
from clipfleet.storage.format.enqueue_state import QUEUED_PATH, Queued, read_queued
from clipfleet.tasks.broker.queue_stats import message_counts
from clipfleet.tasks.broker.redis_client import Client, connect
from clipfleet.tasks.broker.refusals import Refusals
from clipfleet.tasks.dataset_access import dataset_root
from clipfleet.tasks.submit.enqueue import broker_errors, publish, shards_in_redis
from clipfleet.tasks.submit.feed import feed
from clipfleet.tasks.submit.lock import dataset_digest, hold_lock, queueing_lock

QUIET_S = 3.0  # between the two looks; a message that moves is out of sight for less
MAX_MESSAGES = 20_000  # a longer queue is not read: 250 ms
_JOIN_S = 5.0

NO_LOOK = "lost shards cannot be looked for"
NO_QUEUEING = "lost shards cannot be queued again"
NO_FEED = "shards that wait for room cannot be queued"

# Errors of one dataset. A Redis that does not answer ends the look at all datasets.
_ONE_DATASETS = (ClipfleetError, OSError, LockError, ResponseError, BatchPublishError)

log = logging.getLogger(__name__)


class Reconciler:
    """Queues lost shards again from a thread of its own; a context manager."""

    def __init__(self, settings: Settings, card: ModelCard) -> None:
        self._settings = settings
        self._card = card
        self._output = resolved(str(settings.output))  # as `dataset_root` returns it
        self._queue = queue_name(card.tower, settings.queue_prefix)
        self._interval_s = settings.reconcile_interval_s
        self._store_timeout_s = settings.store_timeout_s
        self._settled: dict[str, int] = {}  # dataset → its plan's fingerprint with no open shard
        self._warned: dict[tuple[str, str], str] = {}  # (event, dataset) → the reason in the log
        self._found: set[tuple[str, str]] = set()  # the keys of `_warned` in this look
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
            self._look_or_warn()

    def _look_or_warn(self) -> None:
        try:
            self.look()
        except ClipfleetError as error:
            self._warn(NO_LOOK, "", error)
        except Exception:  # the edge of the thread, which must not end
            log.exception("look for lost shards failed")
        else:
            self._warned.pop((NO_LOOK, ""), None)

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
        # The turn expires before the interval ends, so that a single worker looks each time.
        expiry_ms = max(1, int(self._interval_s * 900))
        return bool(client.set(f"{self._queue}.reconciler", 1, nx=True, px=expiry_ms))

    def _look(self, client: Client) -> int:
        self._found.clear()
        datasets = self._datasets()
        again = self._queue_lost(client, datasets)  # first: lost and waiting shards share the room
        fed = sum(self._feed(client, dataset, queued) for dataset, queued in datasets)
        for over in self._warned.keys() - self._found:
            del self._warned[over]
        return again + fed

    def _warn(self, event: str, dataset: str, reason: object) -> None:
        """Log a problem once for as long as it lasts, and again if its reason changes."""
        key, text = (event, dataset), str(reason)
        self._found.add(key)
        if self._warned.get(key) != text:
            self._warned[key] = text
            log.warning(event, extra={"dataset": dataset, "reason": text})

    def _feed(self, client: Client, dataset: Dataset, queued: Queued) -> int:
        if queued.rest is None:
            return 0
        try:
            count = feed(client, dataset, queued, self._settings)
        except _ONE_DATASETS as error:
            self._warn(NO_FEED, dataset.root, error)
            return 0
        if count:
            fields = {"dataset": dataset.root, "shards": count}
            log.info("shards queued, as there is room", extra=fields)
        return count

    def _queue_lost(self, client: Client, datasets: list[tuple[Dataset, Queued]]) -> int:
        missing = self._lost(client, datasets)
        if not missing or self._stopped.wait(min(QUIET_S, self._interval_s)):
            return 0
        return sum(
            self._queue_again(client, dataset, queued, {shard.name for shard in shards})
            for dataset, queued, shards in missing
        )

    def _roots(self) -> list[str]:
        """Return the datasets in the output folder, or the folder itself if it is a dataset."""
        fs = open_filesystem(self._output, store_timeout_s=self._store_timeout_s)
        if fs.exists(INFO_PATH):
            return [self._output]
        found = find_datasets(self._output, store_timeout_s=self._store_timeout_s)
        if found.cut:
            reason = "too many files to look through; give the datasets a folder of their own"
            self._warn(NO_LOOK, self._output, reason)
        return found.roots

    def _datasets(self) -> list[tuple[Dataset, Queued]]:
        """Return the datasets of this fleet that may have open shards."""
        roots = self._roots()
        for root in self._settled.keys() - set(roots):
            del self._settled[root]
        opened = []
        for root in roots:
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
            except (ClipfleetError, OSError) as error:  # concerns this dataset only
                self._warn(NO_LOOK, root, error)
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
        self, client: Client, datasets: list[tuple[Dataset, Queued]]
    ) -> list[tuple[Dataset, Queued, list[Shard]]]:
        """Return the datasets with lost shards, and these shards."""
        if not datasets or sum(message_counts(client, self._queue)) > MAX_MESSAGES:
            return []
        refusals = Refusals(client, self._settings.queue_prefix)
        if refusals.full:  # a refused shard may have been dropped from the list
            reason = "too many refused messages: mend the cause, then resume"
            self._warn(NO_LOOK, self._queue, reason)
            return []
        in_redis = shards_in_redis(client, self._queue)  # before the files, see `lost_shards`
        found = []
        for dataset, queued in datasets:
            try:
                fingerprint = fingerprint_of(dataset.fs)
                open_shards = list(missing_shards(dataset))
            except (ClipfleetError, OSError) as error:
                self._warn(NO_LOOK, dataset.root, error)
                continue
            if not open_shards:
                self._settled[dataset.root] = fingerprint
            lost = lost_shards(
                open_shards,
                queued,
                in_redis=in_redis.get(dataset_digest(queued.dataset), ()),
                refused=refusals.shards_of(queued.dataset),
            )
            if lost:
                found.append((dataset, queued, lost))
        return found

    def _queue_again(
        self, client: Client, dataset: Dataset, queued: Queued, missing: set[str]
    ) -> int:
        """Queue the missing shards that are still lost, unless another process queues shards."""
        again: list[Shard] = []
        try:
            lock = queueing_lock(client, self._queue, queued.dataset)
            with hold_lock(lock, wait=False) as acquired:
                found = self._lost(client, [(dataset, queued)]) if acquired else []
                lost = [s for *_, shards in found for s in shards if s.name in missing]
                if lost:
                    again += publish(lost, dataset, queued.dataset, self._settings, lock)
        except _ONE_DATASETS as error:
            self._warn(NO_QUEUEING, dataset.root, error)
            return 0
        if again:
            fields = {"dataset": dataset.root, "shards": len(again), "first": again[0].name}
            log.warning("lost shards queued again", extra=fields)
        return len(again)


def is_ours(
    queued: Queued,
    root: str,
    *,
    queue: str,
    output: str,
    store_timeout_s: float = STORE_TIMEOUT_S,
) -> bool:
    """Return whether the dataset at `root` was queued for this fleet, under its present location.

    A dataset that was copied or moved still has the name of its first location.

    Raises:
        OSError, StorageError: The disk or the store of `output` does not answer.
    """
    if queued.queue != queue:
        return False
    try:
        named = dataset_root(output, queued.dataset, store_timeout_s=store_timeout_s)
    except MessageError:  # also if a folder above it cannot be read
        return False
    return named == root


def lost_shards(
    open_shards: Iterable[Shard],
    queued: Queued,
    *,
    in_redis: Collection[str],
    refused: Collection[str],
) -> list[Shard]:
    """Return the open shards that were queued and are not in Redis.

    Other open shards are being queued, or wait for room in the queue. A refused shard waits for
    `clipfleet resume`. `in_redis` must be older than `open_shards`: a shard is recorded as done
    before its message is acknowledged.
    """
    return [
        shard
        for shard in open_shards
        if queued.was_queued(shard) and shard.name not in in_redis and shard.name not in refused
    ]


def fingerprint_of(fs: Filesystem) -> int:
    """Return a hash that changes when a job is planned or queued, or the dataset is made again.

    Raises:
        StorageError: The disk did not answer.
    """
    try:
        queued = fs.read(QUEUED_PATH)
    except FileNotFoundError:
        queued = b""
    return hash((tuple(fs.list(PLAN_FOLDER)), queued))

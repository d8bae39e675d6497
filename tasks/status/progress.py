"""The progress of a dataset: its counts from its files, its messages from Redis."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from clipfleet.architectures import TOWERS
from clipfleet.errors import DatasetError, SettingsError, StorageError
from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import in_object_store, resolved
from clipfleet.storage.filesystem.open_filesystem import open_filesystem
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import INFO_PATH
from clipfleet.storage.plan.jobs import Job, read_job
from clipfleet.storage.skipped import skipped_lines
from clipfleet.tasks.broker.conflicts import Conflicts
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import message_counts, served_length, unread_messages
from clipfleet.tasks.broker.redis_client import connect, unreachable
from clipfleet.tasks.broker.refusals import Refusal, Refusals
from clipfleet.tasks.items.waiting import Waiting, waiting_items
from clipfleet.tasks.snapshot import Snapshot, sentence
from clipfleet.tasks.status.counts import ItemCounts
from clipfleet.tasks.status.fleet import running_items
from clipfleet.tasks.status.own_refusals import own_refusals, refusal_lines
from clipfleet.tasks.status.stall import Look, Stall
from clipfleet.tasks.submit.enqueue import name_in_messages
from clipfleet.tasks.submit.running import read_run
from clipfleet.tasks.worker.presence import Presence, Presences

_RATE_WINDOW_S = 15.0
_NOT_NEEDED_TIMEOUT_S = 1.0
_JOB_SUFFIX = re.compile(r"(?P<dataset>.+):(?P<job>[0-9]{5})")


def read_progress(name: str, settings: Settings) -> Progress:
    """Return the progress of a dataset, or of one of its jobs (`DATASET:00001`).

    Raises:
        DatasetError: There is no such dataset or job.
        StorageError: The disk or the object store does not answer.
    """
    try:
        progress = _open_progress(name, settings)
        progress.refresh()
    except (DatasetError, StorageError) as error:
        raise type(error)(f"{error}{_waiting_for(name, settings)}") from error
    return progress


def _open_progress(name: str, settings: Settings) -> Progress:
    store_timeout_s = settings.store_timeout_s
    match = _JOB_SUFFIX.fullmatch(name)
    if match and (in_object_store(name) or not open_filesystem(name).exists(INFO_PATH)):
        dataset = Dataset.open(match["dataset"], store_timeout_s=store_timeout_s)
        return Progress(dataset, settings, job=read_job(dataset, match["job"]))
    return Progress(Dataset.open(name, store_timeout_s=store_timeout_s), settings)


def _waiting_for(root: str, settings: Settings) -> str:
    """Return what waits for a dataset that does not exist or cannot be read; "" for nothing."""
    try:
        with connect(settings.redis_url) as client:
            queues = [queue_name(tower, settings.queue_prefix) for tower in TOWERS]
            found = [one for queue in queues for one in waiting_items(client, queue, root)]
            refused = [r for r in Refusals(client, settings.queue_prefix).all() if not r.dataset]
    except (RedisError, OSError):  # the dataset's error says more
        return ""
    told = [waiting.sentence() for waiting in found]
    if refused:
        last = refused[-1].reason
        told.append(f"{len(refused):,} messages without a dataset were refused, the last: {last}")
    return "".join(f"; {sentence_}" for sentence_ in told)


class Progress(ItemCounts):
    """The progress of a dataset, or of a job, at the last `refresh`.

    `total`, `vectors` and `errors` count items; `total` counts planned and single items, `removed`
    those of the errors that are tombstones, which `clipfleet remove` left. `waiting`
    and `held` count the messages of the dataset's tower and fleet, for all datasets; `served` of
    them are held by workers that live. They are None if Redis does not answer, see `broker_error`,
    which is no error for a planned dataset that is finished. `unread` counts messages in lists
    that no worker reads, by the separator of their producer. `conflicts` counts the single
    items of the last week whose ids have other content, and keep it. `refusals` are those of this
    dataset; a message that names none counts for the streams of its queue. `workers` are those of
    its tower and fleet. `waiting_items` are
    single items that a worker cannot write now. `skipped` counts the files of folders that were
    no items when the folder's last job was planned.
    """

    def __init__(self, dataset: Dataset, settings: Settings, *, job: Job | None = None) -> None:
        super().__init__(dataset, job=job)
        self.waiting: int | None = None
        self.held: int | None = None
        self.served: int | None = None
        self.conflicts: int | None = None
        self.unread: dict[str, int] = {}
        self.refusals: list[Refusal] = []
        self.workers: list[Presence] = []
        self._shown = 0  # items done, as they were shown last
        self.waiting_items: list[Waiting] = []
        self.broker_error: str | None = None
        self._settings = settings
        self._names: set[str] = set()  # of the dataset in messages
        self._moved_s = time.monotonic()
        self._stall = Stall(
            reconcile_interval_s=settings.reconcile_interval_s,
            remedy=f"`clipfleet resume {dataset.root}` queues them",
            start=f"start one, `clipfleet worker --tower {dataset.info.tower} --model …`, or wait "
            "while one builds its engine",
            now_s=self._moved_s,
        )
        self._history: deque[tuple[float, int]] = deque()  # (monotonic seconds, items done)

    def refresh(self) -> None:
        """Read the dataset's files and Redis again.

        Raises:
            DatasetError: A record of the dataset is damaged.
        """
        self._count()
        self._ask_redis(needed=not self.finished or self.dataset.info.kind != "planned")
        now_s = time.monotonic()
        self._shown = self._count_shown()
        if not self._history or self._shown != self._history[-1][1]:
            self._moved_s = now_s
        self._stall.add(self._look(), now_s)
        self._history.append((now_s, self._shown))
        while self._history[0][0] < self._history[-1][0] - _RATE_WINDOW_S:
            self._history.popleft()

    def _count_shown(self) -> int:
        """Return the items that are done, also in running shards; it does not go back.

        A shard whose worker died begins anew: meanwhile the number stays as it was.
        """
        more = running_items(self.workers, self._names, self._planned.names, self.job)
        least = 0 if self._in_retry else min(self._shown, self.total)
        return max(self.done, least, min(self.done + more, self.total))

    @property
    def stalled_s(self) -> float:
        """Seconds since the last item was done."""
        return time.monotonic() - self._moved_s

    @property
    def stuck(self) -> str:
        """Why no shard can get done until a person acts; "" while one may, and at the end."""
        return self._stall.reason(time.monotonic())

    def _look(self) -> Look:
        return Look(
            done=self.done,
            missing=max(0, self.shards - self.shards_done),
            refused=len({r.message for r in self.refusals if r.planned}),
            waiting=self.waiting,
            held=self.held,
            served=self.served,
            broker_error=self.broker_error,
            run=None if self.finished or self.served else read_run(self.dataset),
        )

    def snapshot(self) -> Snapshot:
        """Return the progress for a display."""
        (first_s, first), (last_s, last) = self._history[0], self._history[-1]
        rate = (last - first) / (last_s - first_s) if last_s > first_s else 0.0
        return Snapshot(
            total=self.total,
            done=self._shown,
            errors=self.errors - self.removed,
            items_per_s=max(rate, 0.0),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the status in JSON's types."""
        return {
            "dataset": self.dataset.root,
            "job": self.job.id if self.job else None,
            "finished": self.finished,
            "total": self.total,
            "vectors": self.vectors,
            "errors": self.errors,
            "removed": self.removed,
            **self.counts._asdict(),
            "skipped": self.skipped,
            "shards": self.shards,
            "shards_done": self.shards_done,
            "waiting": self.waiting,
            "held": self.held,
            "served": self.served,
            "unread": self.unread,
            "stuck": self.stuck or None,
            "conflicts": self.conflicts,
            "waiting_items": [asdict(waiting) for waiting in self.waiting_items],
            "broker_error": self.broker_error,
            "workers": [asdict(worker) for worker in self.workers],
            "refusals": [{"message": r.message, "reason": r.reason} for r in self.refusals],
        }

    def lines(self) -> list[str]:
        """Return the status as lines of text."""
        name = f"{self.dataset.root}:{self.job.id}" if self.job else self.dataset.root
        head = f"{name}: {sentence(self.snapshot())}; {self.shards_done:,}/{self.shards:,} shards"
        counts = self.counts
        counted = [
            f"  {count:,} {what}"
            for count, what in (
                (self.removed, "items were removed"),
                (counts.copied, "vectors are copies, of items with equal bytes"),
                (counts.cut, "texts were cut to the model's length"),
                (counts.transparent, "images are transparent"),
                (counts.without_end, "JPEG files lack their ends"),
            )
            if count
        ]
        more = [*self._missing_lines(), *self._conflict_lines(), *refusal_lines(self.refusals)]
        about = [*counted, *skipped_lines(self.skipped)]
        return [head, *about, *self._redis_lines(), *self._waiting_lines(), *more]

    def _redis_lines(self) -> list[str]:
        if self.finished and not self.waiting and not self.held:
            return []  # Redis is not needed any more, and may be stopped
        if self.broker_error is not None:
            return [f"  queue unknown: {self.broker_error}"]
        lines = [
            f"  {self.waiting:,} messages wait for this tower's workers, {self.held:,} are held"
        ]
        if (self.waiting or self.held) and not self.served:
            lines.append("  no living worker holds one: start a worker, or wait until one is ready")
        return lines

    def _waiting_lines(self) -> list[str]:
        unread = [
            f"  {count:,} messages lie where no worker reads, in lists with the separator "
            f"{separator!r}: leave `sep` out of the producer's broker_transport_options, and send "
            "them again"
            for separator, count in self.unread.items()
        ]
        return [*unread, *(f"  {waiting.sentence()}" for waiting in self.waiting_items)]

    def _missing_lines(self) -> list[str]:
        if self.finished or self.waiting != 0 or self.held != 0:
            return []
        missing = self.shards - self.shards_done
        remedy = f"`clipfleet resume {self.dataset.root}` queues them"
        return [f"  {missing:,} shards are missing and none is queued: {remedy}"]

    def _conflict_lines(self) -> list[str]:
        if not self.conflicts:
            return []
        meaning = "items whose ids have other content, which was kept; the workers' logs name them"
        return [f"  {self.conflicts:,} conflicts: {meaning}"]

    def _ask_redis(self, *, needed: bool) -> None:
        """Read what Redis has; where it is not needed, its faults are not told."""
        settings = self._settings
        queue = queue_name(self.dataset.info.tower, settings.queue_prefix)
        try:
            timeout_s = None if needed else _NOT_NEEDED_TIMEOUT_S
            with connect(settings.redis_url, timeout_s=timeout_s) as client:
                waiting, self.held = message_counts(client, queue)
                self.waiting = waiting + deferred_length(client, queue)
                self.served = served_length(client, queue)
                self.unread = unread_messages(client, queue)
                self.waiting_items = waiting_items(client, queue, self.dataset.root)
                # Messages may name the dataset by another path.
                root, prefix = self.dataset.root, settings.queue_prefix
                names = {root, resolved(root), name_in_messages(self.dataset)}
                self._names = names
                self.conflicts = Conflicts(client, prefix).count(names)
                refusals = Refusals(client, prefix).all()
                self.refusals = own_refusals(refusals, self.dataset, self.job, names, queue)
                present = Presences(client, prefix).all()
                self.workers = [one for one in present if one.tower == self.dataset.info.tower]
                self.broker_error = None
        except (RedisError, OSError, SettingsError) as error:
            if needed and isinstance(error, SettingsError):
                raise
            self.waiting = self.held = self.served = self.conflicts = None
            self.waiting_items, self.unread, self.workers = [], {}, []
            self.broker_error = str(unreachable(settings.redis_url, error)) if needed else None

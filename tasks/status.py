"""The status of a dataset: its progress from its files, its messages from Redis."""

from __future__ import annotations

import re
import string
import time
from collections import deque
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from clipfleet.architectures import TOWERS
from clipfleet.error_codes import TOMBSTONES
from clipfleet.errors import DatasetError, SettingsError, StorageError
from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import VectorCounts
from clipfleet.storage.commit.manifest import Manifest
from clipfleet.storage.filesystem.locations import in_object_store, open_filesystem, resolved
from clipfleet.storage.format.dataset import INFO_PATH, Dataset
from clipfleet.storage.format.parts import ITEMS_PREFIX
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.reader import Job, jobs, read_job, skipped_by_last_jobs
from clipfleet.storage.skipped import skipped_lines
from clipfleet.tasks.broker.conflicts import Conflicts
from clipfleet.tasks.broker.deferred import deferred_length
from clipfleet.tasks.broker.queue_stats import message_counts, served_length, unread_messages
from clipfleet.tasks.broker.redis_client import connect, unreachable
from clipfleet.tasks.broker.refusals import Refusal, Refusals
from clipfleet.tasks.fleet import running_items, worker_fields
from clipfleet.tasks.items.waiting import Waiting, waiting_items
from clipfleet.tasks.own_refusals import own_refusals, refusal_lines
from clipfleet.tasks.progress import Snapshot, sentence
from clipfleet.tasks.stall import Look, Stall
from clipfleet.tasks.submit.enqueue import name_in_messages
from clipfleet.tasks.submit.local_run import read_run
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


class Progress:
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
        self.dataset = dataset
        self.job = job
        self.total = self.shards = 0
        self.skipped: dict[str, int] = {}
        self._superseded = 0  # errors that a retry has replaced
        self._in_retry = 0  # errors that a running retry will replace
        self.removed = 0
        self._removed_at = (0, 0)  # jobs, and items in parts of retries, when these were counted
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
        self._planned = Manifest(dataset, f"{job.id}-" if job else tuple(string.digits))
        self._single_items = Manifest(dataset, ITEMS_PREFIX)
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
        planned = [self.job] if self.job else jobs(self.dataset)
        replaced = self._planned.refresh()
        if not self.job:
            self._single_items.refresh(again=replaced)
        single_items = self._single_items.vectors + self._single_items.errors
        if self.job:
            self.total = self.job.items
        else:
            self.total = sum(job.items for job in planned if not job.retry) + single_items
            self._superseded = self._planned.retried
            retries = sum(job.items for job in planned if job.retry)
            self._in_retry = retries - self._superseded
        self.shards = sum(job.shards for job in planned)
        self.skipped = skipped_by_last_jobs(planned)
        self._count_removed(planned)
        self._ask_redis(needed=not self.finished or self.dataset.info.kind != "planned")
        now_s = time.monotonic()
        self._shown = self._count_shown()
        if not self._history or self._shown != self._history[-1][1]:
            self._moved_s = now_s
        self._stall.add(self._look(), now_s)
        self._history.append((now_s, self._shown))
        while self._history[0][0] < self._history[-1][0] - _RATE_WINDOW_S:
            self._history.popleft()

    def _count_removed(self, planned: list[Job]) -> None:
        """Count the tombstones; only a part of a retry can change their number."""
        if self.job:
            self.removed = self.errors if self.job.removes else 0
            return
        now = (len(planned), self._superseded)
        if now != self._removed_at and any(job.removes for job in planned):
            classes = count_failures(self.dataset)
            self.removed = sum(classes[code] for code in TOMBSTONES)
        self._removed_at = now

    @property
    def vectors(self) -> int:
        """Items with a vector."""
        return self._planned.vectors + self._single_items.vectors

    @property
    def errors(self) -> int:
        """Items without a vector, of which no retry is done."""
        return max(0, self._planned.errors + self._single_items.errors - self._superseded)

    @property
    def counts(self) -> VectorCounts:
        """How many vectors are of cut texts, of transparent images, and so on."""
        pairs = zip(self._planned.counts, self._single_items.counts, strict=True)
        return VectorCounts(*map(sum, pairs))

    @property
    def done(self) -> int:
        """Items with a vector or an error, but those that are in a retry."""
        return self.vectors + self.errors - self._in_retry

    def _count_shown(self) -> int:
        """Return the items that are done, also in running shards; it does not go back.

        A shard whose worker died begins anew: meanwhile the number stays as it was.
        """
        more = running_items(self.workers, self._names, self._planned.names, self.job)
        least = 0 if self._in_retry else min(self._shown, self.total)
        return max(self.done, least, min(self.done + more, self.total))

    @property
    def shards_done(self) -> int:
        """Planned shards with a record; parts of single items are not counted."""
        return self._planned.shards

    @property
    def finished(self) -> bool:
        """Whether every planned shard has a record."""
        return self.shards_done >= self.shards

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
            "workers": [worker_fields(worker) for worker in self.workers],
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

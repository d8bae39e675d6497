"""`max_failed`: a job of which too many items failed is stopped; workers refuse its other shards.

`queued.json` has the limit. Redis counts the failed items of a job that has one. The files are the
truth: a worker that finds no count in Redis counts them, and queueing shards forgets the counts.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from redis.exceptions import RedisError

from clipfleet.errors import UsageError
from clipfleet.settings import Settings
from clipfleet.settings.datasets import allowed_failures
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import read_queued
from clipfleet.storage.plan.failures import failed_items
from clipfleet.storage.plan.jobs import Job, read_job
from clipfleet.tasks.broker.redis_client import Client, connect

NO_LIMIT = "100%"
KEPT_S = 7 * 24 * 3600

_client = lru_cache(maxsize=1)(connect)  # one connection per process

log = logging.getLogger(__name__)


class TooManyFailedError(UsageError):
    """More items of a job failed than `max_failed` allows."""


class FailureCounts:
    """The failed items of jobs with a limit, in Redis; `dataset` is a name as in messages."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}.failed"

    def get(self, dataset: str, job: str) -> int | None:
        """Return the count of a job; None if there is none."""
        count = self._client.hget(self._key, _field(dataset, job))
        return None if count is None else int(count)

    def begin(self, dataset: str, job: str, count: int) -> None:
        """Set the count of a job that has none."""
        self._client.hsetnx(self._key, _field(dataset, job), count)
        self._client.expire(self._key, KEPT_S)

    def add(self, dataset: str, job: str, errors: int) -> None:
        """Add failed items of a shard to the count of a job, if it has one."""
        if self.get(dataset, job) is not None:
            self._client.hincrby(self._key, _field(dataset, job), errors)

    def forget(self, dataset: str, jobs: Collection[str]) -> None:
        """Forget the counts of jobs, because retries may have embedded what failed."""
        if jobs:
            self._client.hdel(self._key, *[_field(dataset, job) for job in jobs])


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The limit of a job; `dataset_name` is that of its messages."""

    dataset: Dataset
    dataset_name: str
    job: Job
    max_failed: str

    def check(self, settings: Settings) -> None:
        """Refuse to embed more of the job if too many of its items failed.

        Without Redis nothing is refused: a limit saves work, and correctness does not depend on it.

        Raises:
            TooManyFailedError: They did.
        """
        try:
            counts = FailureCounts(_client(settings.redis_url), settings.queue_prefix)
            failed = counts.get(self.dataset_name, self.job.id)
            if failed is None:
                failed = failed_items(self.dataset, self.job.id)
                counts.begin(self.dataset_name, self.job.id, failed)
        except RedisError as error:
            log.warning("failed items not counted", extra={"error": str(error)})
            return
        if failed > allowed_failures(self.max_failed, self.job.items):
            raise TooManyFailedError(
                f"{failed:,} of the {self.job.items:,} items of job {self.job.id} failed, which is "
                f"more than --max-failed {self.max_failed}: the job was stopped. `clipfleet "
                "errors` shows why they failed; `clipfleet retry` goes on when that is mended, and "
                "a larger --max-failed goes on without them"
            )

    def add(self, errors: int, settings: Settings) -> None:
        """Count the failed items of a shard."""
        if not errors:
            return
        try:
            counts = FailureCounts(_client(settings.redis_url), settings.queue_prefix)
            counts.add(self.dataset_name, self.job.id, errors)
        except RedisError as error:
            log.warning("failed items not counted", extra={"error": str(error)})


def read_limit(dataset: Dataset, dataset_name: str, job_id: str) -> Limit | None:
    """Return the limit of a job; None without one, and for a retry.

    Raises:
        DatasetError: There is no such job, or a file is damaged.
    """
    queued = read_queued(dataset)
    if queued is None or queued.max_failed in (None, NO_LIMIT):
        return None
    job = read_job(dataset, job_id)
    if job.retry:
        return None
    return Limit(
        dataset=dataset, dataset_name=dataset_name, job=job, max_failed=str(queued.max_failed)
    )


def _field(dataset: str, job: str) -> str:
    return f"{dataset}:{job}"

"""Retrying: plan and queue again the items of a dataset that ended as errors."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.enqueue_state import read_queued
from clipfleet.storage.plan.jobs import Job
from clipfleet.storage.plan.planner import PlannedMeanwhileError, plan_retry
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.max_failed import NO_LIMIT
from clipfleet.tasks.submit.enqueue import later
from clipfleet.tasks.submit.job import plan_and_queue

_ATTEMPTS = 10  # the workers of a stream plan jobs too, for newer content


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The result of `retry`; `job` is None if there was nothing to try again.

    `queued_shards` counts all missing shards that were queued, also those of other jobs.
    """

    dataset: str
    job: str | None
    items: int
    shards: int
    queued_shards: int
    later_shards: int = 0  # the workers queue these when there is room

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        planned = (
            f"{self.items:,} items that ended as errors are tried again in {self.shards:,} shards "
            f"as job {self.job}"
            if self.job
            else "no item to try again: none ended so, or another retry has them"
        )
        queued = f"queued {self.queued_shards:,} shards{later(self.later_shards)}"
        return [f"{self.dataset}: {planned}; {queued}"]


def retry(dataset_root: str, only: Collection[str] = (), *, settings: Settings) -> Retry:
    """Plan and queue again the items that ended as errors, of some classes (`only`) or of all.

    Raises:
        BrokerError: Redis does not answer. Nothing was planned, or not all shards were queued;
            another `retry` continues.
        DatasetError: There is no dataset, it is damaged, other processes plan all the time, or
            another command or fleet embeds it.
    """
    dataset = Dataset.open(dataset_root, store_timeout_s=settings.store_timeout_s)
    queued = read_queued(dataset)
    if settings.max_failed or (queued and queued.max_failed):
        # Whoever retries has mended the cause: a job that was stopped goes on.
        settings = settings.model_copy(update={"max_failed": NO_LIMIT})
    check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    job, queueing = plan_and_queue(
        dataset, settings, lambda: _plan(dataset, only, settings.items_in_shard())
    )
    return Retry(
        dataset=dataset.root,
        job=job.id if job else None,
        items=job.items if job else 0,
        shards=job.shards if job else 0,
        queued_shards=queueing.queued,
        later_shards=queueing.later,
    )


def _plan(dataset: Dataset, only: Collection[str], shard_size: int) -> Job | None:
    for _ in range(_ATTEMPTS - 1):
        with suppress(PlannedMeanwhileError):
            return plan_retry(dataset, only, shard_size)
    return plan_retry(dataset, only, shard_size)

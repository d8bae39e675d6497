"""Retrying: the items of a dataset that ended as errors are planned and queued once more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.settings import Settings
from clipfleet.storage.commit.commit import complete
from clipfleet.storage.commit.manifest import unfinished
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_retry
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.submit.enqueue import later, queue_missing


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What `retry_errors` did; `job` is None if there was nothing to try again.

    `queued_shards` are all that were missing in Redis, also of other jobs.
    """

    dataset: str
    job: str | None
    items: int
    shards: int
    queued_shards: int
    later_shards: int = 0  # that the workers queue when there is room

    def to_json(self) -> dict[str, Any]:
        """Return the retry in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the retry in words."""
        planned = (
            f"{self.items:,} items that ended as errors are tried again in {self.shards:,} shards "
            f"as job {self.job}"
            if self.job
            else "no item to try again: none ended so, or a retry has them in hand"
        )
        queued = f"queued {self.queued_shards:,} shards{later(self.later_shards)}"
        return [f"{self.dataset}: {planned}; {queued}"]


def retry_errors(dataset_root: str, only: Collection[str] = (), *, settings: Settings) -> Retry:
    """Plan the items with an error, of some classes or of all, once more, and queue them.

    Raises:
        BrokerError: Redis does not answer; nothing is planned, or the plan is not all queued
            and retrying again goes on.
        DatasetError: There is no dataset, it is damaged, or another submit planned meanwhile.
    """
    dataset = Dataset.open(dataset_root, store_timeout_s=settings.store_timeout_s)
    check_broker(settings.redis_url)
    for name in unfinished(dataset):  # a worker died between a part and its record
        complete(dataset, name)
    job = plan_retry(dataset, only, settings.shard_size)
    queueing = queue_missing(dataset, settings)
    return Retry(
        dataset=dataset.root,
        job=job.id if job else None,
        items=job.items if job else 0,
        shards=job.shards if job else 0,
        queued_shards=queueing.queued,
        later_shards=queueing.later,
    )

"""Resuming: queue the open shards of a dataset again, from its plan and manifest alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import finish, missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.submit.enqueue import later, queue_missing, queue_of
from clipfleet.tasks.submit.running import refuse_local_run


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """The result of `resume`; open shards that are in neither count were in Redis already."""

    dataset: str
    open_shards: int
    queued_shards: int
    later_shards: int = 0  # the workers queue these when there is room

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        if not self.open_shards:
            return [f"{self.dataset}: every planned shard is done"]
        others = self.open_shards - self.queued_shards - self.later_shards
        in_redis = f"; {others:,} others wait in Redis or run" if others > 0 else ""
        queued = f"queued {self.queued_shards:,} open shards{later(self.later_shards)}"
        return [f"{self.dataset}: {queued}{in_redis}"]


def resume(dataset_root: str, *, settings: Settings) -> Resumption:
    """Queue the open shards of all jobs of a dataset that are not in Redis.

    Neither the source nor the model is needed. Single items have no plan and are not queued. Shards
    that were queued for another fleet are this fleet's from now on.

    Raises:
        DatasetError: There is no dataset, it is damaged, or a local run embeds it now.
        BrokerError: Redis does not answer; another `resume` continues.
    """
    dataset = Dataset.open(dataset_root, store_timeout_s=settings.store_timeout_s)
    check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    refuse_local_run(dataset, queue_of(dataset, settings))
    finish(dataset)
    open_shards = sum(1 for _ in missing_shards(dataset))
    if not open_shards:
        return Resumption(dataset=dataset.root, open_shards=0, queued_shards=0)
    queueing = queue_missing(dataset, settings)
    return Resumption(
        dataset=dataset.root,
        open_shards=open_shards,
        queued_shards=queueing.queued,
        later_shards=queueing.later,
    )

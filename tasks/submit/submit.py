"""Submitting: plan the new items of a source, and queue the missing shards.

A producer loads this module: no engine, no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipfleet.model_card import load_card
from clipfleet.settings import Settings
from clipfleet.storage.commit.kinds import check_kind
from clipfleet.storage.commit.manifest import finish
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import Source
from clipfleet.tasks.broker.redis_client import check_broker, is_local
from clipfleet.tasks.broker.security_check import log_security_warnings
from clipfleet.tasks.submit.enqueue import later, queue_missing


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The result of `submit`; `job` is None if the dataset had every item already."""

    dataset: str
    job: str | None
    planned_items: int
    planned_shards: int
    queued_shards: int
    later_shards: int = 0  # the workers queue these when there is room

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        planned = (
            f"planned {self.planned_items:,} items in {self.planned_shards:,} shards as job "
            f"{self.job}"
            if self.job
            else "planned nothing: every item is in the dataset's plan"
        )
        if self.queued_shards:
            queued = f"queued {self.queued_shards:,} shards"
        elif self.later_shards:
            queued = "queued nothing: the queue is full"
        else:
            queued = "queued nothing: every planned shard is done or in the queue"
        return [f"{self.dataset}: {planned}; {queued}{later(self.later_shards)}"]


def submit(
    source: Source, dataset_root: str, model: str | Path, *, settings: Settings
) -> Submission:
    """Plan the items of a source that a dataset does not have, and queue the missing shards.

    Raises:
        BrokerError: Redis does not answer. Nothing was planned, or not all shards were queued;
            another `submit` continues.
        DatasetKindError: The dataset is a stream of single items.
        UsageError: The card, the source or the dataset is not fit for use.
    """
    card, _ = load_card(model)
    check_broker(settings.redis_url)
    if not is_local(settings.redis_url):
        log_security_warnings(settings.redis_url)
    dataset = Dataset.create(
        dataset_root,
        card,
        kind="planned",
        embedding_dtype=settings.embedding_dtype,
        store_timeout_s=settings.store_timeout_s,
    )
    check_kind(dataset, "planned")
    finish(dataset)
    job = plan_items(dataset, source, settings.shard_size)
    queueing = queue_missing(dataset, settings)
    return Submission(
        dataset=dataset.root,
        job=job.id if job else None,
        planned_items=job.items if job else 0,
        planned_shards=job.shards if job else 0,
        queued_shards=queueing.queued,
        later_shards=queueing.later,
    )

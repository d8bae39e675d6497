"""A job is planned, and its shards are queued: the steps that a submission and a retry share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from clipfleet.settings import Settings
from clipfleet.storage.commit.manifest import finish
from clipfleet.storage.format.dataset import Dataset
from clipfleet.tasks.submit.enqueue import EnqueueResult, queue_missing, queue_of
from clipfleet.tasks.submit.running import refuse_others

Planned = TypeVar("Planned")


def plan_and_queue(
    dataset: Dataset, settings: Settings, plan: Callable[[], Planned]
) -> tuple[Planned, EnqueueResult]:
    """Plan jobs, and queue the missing shards of all jobs; return what `plan` returned.

    Raises:
        BrokerError: Redis does not answer. Nothing was planned, or not all shards were queued;
            another call continues.
        DatasetError: The dataset is damaged, or another command or fleet embeds it.
    """
    refuse_others(dataset, queue_of(dataset, settings))
    finish(dataset)
    planned = plan()
    return planned, queue_missing(dataset, settings)

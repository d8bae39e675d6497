"""The counts of a dataset, or of one of its jobs: items and shards, as its files tell them."""

from __future__ import annotations

import string

from clipfleet.error_codes import TOMBSTONES
from clipfleet.storage.commit.manifest import Manifest
from clipfleet.storage.commit.record import VectorCounts
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import ITEMS_PREFIX
from clipfleet.storage.plan.failures import count_failures
from clipfleet.storage.plan.jobs import Job, jobs, skipped_by_last_jobs


class ItemCounts:
    """Items and shards at the last look; attributes as in `Progress`."""

    def __init__(self, dataset: Dataset, *, job: Job | None = None) -> None:
        self.dataset = dataset
        self.job = job
        self.total = self.shards = 0
        self.skipped: dict[str, int] = {}
        self.removed = 0
        self._removed_at = (0, 0)  # jobs, and items in parts of retries, when these were counted
        self._superseded = 0  # errors that a retry has replaced
        self._in_retry = 0  # errors that a running retry will replace
        self._planned = Manifest(dataset, f"{job.id}-" if job else tuple(string.digits))
        self._single_items = Manifest(dataset, ITEMS_PREFIX)

    def _count(self) -> None:
        """Read the dataset's files again.

        Raises:
            DatasetError: A record of the dataset is damaged.
        """
        planned = [self.job] if self.job else jobs(self.dataset)
        replaced = self._planned.refresh()
        if self.job:
            self.total = self.job.items
        else:
            self._single_items.refresh(again=replaced)
            single_items = self._single_items.vectors + self._single_items.errors
            self.total = sum(job.items for job in planned if not job.retry) + single_items
            self._superseded = self._planned.retried
            retries = sum(job.items for job in planned if job.retry)
            self._in_retry = retries - self._superseded
        self.shards = sum(job.shards for job in planned)
        self.skipped = skipped_by_last_jobs(planned)
        self._count_removed(planned)

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

    @property
    def shards_done(self) -> int:
        """Planned shards with a record; parts of single items are not counted."""
        return self._planned.shards

    @property
    def finished(self) -> bool:
        """Whether every planned shard has a record."""
        return self.shards_done >= self.shards

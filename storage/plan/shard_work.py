"""The work for a shard: what a worker reads of its plan, and makes of the results."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipfleet.error_codes import GONE, REPLACED
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.footer import MAX_ATTEMPT
from clipfleet.storage.format.results import Embedded, Failure
from clipfleet.storage.plan.jobs import Tombstone
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.retries import retried_later, taken_failures


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """The work for a shard: its `items` are to be embedded.

    For a retry's shard, `earlier` are the items' failures so far by id, `earlier_parts` the parts
    that have those, and `replaced_parts` the parts with vectors of earlier content. `retried_later`
    are failures of the shard that a later retry has: they are not embedded, and stand in the
    shard's part again. Of a removal's shard nothing is embedded: `tombstones` stand in its part.
    """

    items: list[Item]
    earlier: dict[str, Failure]
    earlier_parts: tuple[str, ...]
    replaced_parts: tuple[str, ...]
    retried_later: list[Failure]
    tombstones: list[Failure]

    def finish(self, embedded: Embedded) -> Embedded:
        """Return the contents of the shard's part, with the attempts counted."""
        failures = [
            replace(f, attempt=min(self.earlier[f.item.id].attempt + 1, MAX_ATTEMPT))
            if f.item.id in self.earlier
            else f
            for f in [*embedded.failures, *self.tombstones]
        ]
        return replace(
            embedded,
            failures=[*failures, *self.retried_later],
            retries=self.earlier_parts,
            replaced=self.replaced_parts,
        )


def read_shard_work(dataset: Dataset, shard: Shard) -> ShardWork:
    """Return the work for a shard that has no part.

    If its part was deleted, the shard is embedded again, but not the items that a later retry took
    from it: these have their vectors, or will have them, in the retry's part.

    Raises:
        MessageError: The job has no such shard.
        DatasetError: The dataset has no such job, or a plan is damaged.
    """
    earlier: dict[str, Failure] = {}
    parts: set[str] = set()
    replaced: set[str] = set()
    with PlanReader(dataset) as plan:
        job = plan.job(shard)
        if job.retry:
            for failure, part in taken_failures(dataset, plan, job, shard.index):
                earlier[failure.item.id] = failure
                parts.add(part)
                if failure.error == REPLACED:
                    replaced.add(part)
        items = plan.read(shard)
    later = retried_later(dataset, {item.id for item in items}, after=shard.job)
    own = [item for item in items if item.id not in later]
    return ShardWork(
        items=[] if job.removes else own,
        earlier=earlier,
        earlier_parts=tuple(sorted(parts)),
        replaced_parts=tuple(sorted(replaced)),
        retried_later=[later[item.id] for item in items if item.id in later],
        tombstones=[_tombstone(item, job.removes, job.created_at) for item in own]
        if job.removes
        else [],
    )


def _tombstone(item: Item, error: Tombstone, removed_at: str) -> Failure:
    reason = "its file was gone" if error == GONE else "its id was named"
    return Failure(item=item, error=error, message=f"removed at {removed_at}: {reason}")

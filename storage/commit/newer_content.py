"""Ids of a stream that come again with other content: which are planned again, and which are not.

An id without a vector takes the newer content. An id with a vector keeps it, or, with `replace`,
takes the newer content too. Both are retries: the newest job has the id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from clipfleet.items import Item
from clipfleet.storage.commit.single_items import KnownIds
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.jobs import Job
from clipfleet.storage.plan.planner import PlannedMeanwhileError, Row, plan_rows
from clipfleet.storage.plan.standing import standing_of


@dataclass(kw_only=True, slots=True)
class NewerContent:
    """A job with the ids that take newer content, or None; and the items that were not planned.

    `conflicts` are of ids that keep their vectors. `undecided` are of ids that changed meanwhile:
    look at them again.
    """

    job: Job | None = None
    conflicts: list[Item] = field(default_factory=list)
    undecided: list[Item] = field(default_factory=list)


def plan_newer_content(
    dataset: Dataset,
    known: KnownIds,
    items: Sequence[Item],
    *,
    replace: bool,
    shard_size: int,
) -> NewerContent:
    """Plan the items, each of a known id with other content, that supersede what their ids have.

    Raises:
        DatasetError: A plan or a part is damaged.
        StorageError: The disk did not answer; trying again is safe.
    """
    while True:
        newer = NewerContent()
        rows = _rows(dataset, known, items, newer, replace=replace)
        try:
            newer.job = plan_rows(dataset, rows, "newer content", shard_size, retry=True)
        except PlannedMeanwhileError:
            continue  # perhaps with these ids: look again
        return newer


def _rows(
    dataset: Dataset, known: KnownIds, items: Sequence[Item], newer: NewerContent, *, replace: bool
) -> Iterator[Row]:
    """Yield the rows of the plan; they are read after the job's number was chosen."""
    known.refresh()
    parts = {item.id: known.part_of(item.id) for item in items}
    standing = standing_of(dataset, {id_: name for id_, name in parts.items() if name})
    for item in items:
        if known.has(item):
            continue  # another worker planned it meanwhile
        found = standing.get(item.id)
        if found is None:
            newer.undecided.append(item)
        elif found.failure is not None or replace:
            yield found.row(item)
        else:
            newer.conflicts.append(item)

"""Retries: jobs whose items ended as errors before, and are embedded once more.

The newest job that planned an id has it: an older part's failure of that id is superseded
as soon as the newer job's part is there. Nothing is changed for that, and so nothing can be
half done; the rows that leave older errors tables then only tidy up for readers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from clipfleet.errors import DatasetError
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.id_index import IdIndex
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    MAX_ATTEMPT,
    Embedded,
    Failure,
    failure_of,
    part_path,
    plain_name,
    value_column,
)
from clipfleet.storage.jobs.plan_reader import RESTORE, Job, PlanReader, read_job, shards

RETRY_MARK = "retry-"  # begins the token of a retry's plan files: a list of names finds them

_BEFORE_ALL = ""  # sorts before every job's id: single items have no job


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a worker has to do for a shard.

    `items` are to be embedded; `before` are their failures so far, and `parts` where those
    are, if the shard is a retry's. `taken` are the shard's failures that a later retry has:
    they stand in this part again, superseded, and are not embedded.
    """

    items: list[Item]
    before: dict[str, Failure]
    parts: tuple[str, ...]
    taken: list[Failure]

    def finish(self, embedded: Embedded) -> Embedded:
        """Return what belongs in the shard's part, attempts counted up."""
        failures = [
            replace(f, attempt=min(self.before[f.item.id].attempt + 1, MAX_ATTEMPT))
            if f.item.id in self.before
            else f
            for f in embedded.failures
        ]
        return replace(embedded, failures=[*failures, *self.taken], retries=self.parts)


def read_run(dataset: Dataset, shard: Shard) -> Run:
    """Return what is to be done for a shard.

    A shard whose part somebody deleted is embedded anew, but not what a retry took from it
    since then: that has its vector, or will have it, in the retry's part.

    Raises:
        MessageError: The job has no such shard.
        DatasetError: The dataset has no such job, or a plan is damaged.
    """
    before: dict[str, Failure] = {}
    parts: set[str] = set()
    with PlanReader(dataset) as plan:
        if plan.job(shard).retry:
            for failure, part in _failures(dataset, plan, plan.job(shard), shard.index):
                before[failure.item.id] = failure
                parts.add(part)
        items = plan.read(shard)
    taken = taken_later(dataset, {item.id for item in items}, after=shard.job)
    return Run(
        items=[item for item in items if item.id not in taken],
        before=before,
        parts=tuple(sorted(parts)),
        taken=[taken[item.id] for item in items if item.id in taken],
    )


def job_of(part: str) -> str:
    """Return the id of a part's job; of single items' parts one that sorts before all."""
    return _BEFORE_ALL if part.startswith(ITEMS_PREFIX) else part.partition("-")[0]


def retry_jobs(dataset: Dataset, *, after: str = _BEFORE_ALL) -> list[Job]:
    """Return the jobs that are retries, and later than a job; oldest first."""
    names = dataset.fs.list(PLAN_FOLDER)
    marked = {name.partition("-")[0] for name in names if f"-{RETRY_MARK}" in name}
    later = sorted(id_ for id_ in marked if id_ > after and f"{id_}.json" in names)
    found = [read_job(dataset, id_) for id_ in later]
    return [job for job in found if job.retry]  # not where a retry's planner was second


def taken_later(dataset: Dataset, ids: Collection[str], *, after: str) -> dict[str, Failure]:
    """Return the failures, of some ids, that the first retry after a job was to mend."""
    found: dict[str, Failure] = {}
    for job in retry_jobs(dataset, after=after) if ids else ():
        with PlanReader(dataset) as plan:
            for shard in _shards_with(plan, job, ids):
                for failure, _ in _failures(dataset, plan, job, shard.index):
                    if failure.item.id in ids:
                        found.setdefault(failure.item.id, failure)
    return found


def superseded(dataset: Dataset, ids: Collection[str], *, after: str) -> set[str]:
    """Return which of some ids, failures in a part of job `after`, newer parts have."""
    found: set[str] = set()
    for job in retry_jobs(dataset, after=after) if ids else ():
        with PlanReader(dataset) as plan:
            for shard in _shards_with(plan, job, ids):
                here = {id_ for id_ in plan.read_rows(job, shard.index)[0] if id_ in ids}
                if here and dataset.fs.exists(part_path(shard.name)):
                    found |= here
    return found


class Retried:
    """The ids that retries have, each with the newest job; on disk, so memory stays flat.

    Of retries whose part is among `parts` only, or of all that are planned.
    """

    def __init__(self, dataset: Dataset, parts: Collection[str] | None = None) -> None:
        self._index = IdIndex()
        for job, ids in planned_retries(dataset, parts, newest_first=True):
            # An id's first row stays.
            self._index.add((id_, b"", int(job.id)) for id_ in ids)

    def has(self, id_: str, *, after: str) -> bool:
        """Return whether a retry later than a job has an id."""
        found = self._index.get(id_)
        return found is not None and found[1] > int(after or 0)

    def close(self) -> None:
        self._index.close()


def planned_retries(
    dataset: Dataset, parts: Collection[str] | None = None, *, newest_first: bool = False
) -> Iterator[tuple[Job, list[str]]]:
    """Yield the ids of all retries, a shard at a time; see `Retried` for `parts`."""
    for job in sorted(retry_jobs(dataset), key=lambda job: job.id, reverse=newest_first):
        for shard, ids in _planned(dataset, job):
            if parts is None or shard.name in parts:
                yield job, ids


def _shards_with(plan: PlanReader, job: Job, ids: Collection[str]) -> Iterator[Shard]:
    """Yield the shards that may have some of the ids: most sources come in their order."""
    first, last = min(ids), max(ids)
    return (shard for shard in shards(job) if plan.may_have(job, shard.index, first, last))


def _planned(dataset: Dataset, job: Job) -> Iterator[tuple[Shard, list[str]]]:
    with PlanReader(dataset) as plan:
        for shard in shards(job):
            yield shard, plan.read_rows(job, shard.index)[0]


def _failures(
    dataset: Dataset, plan: PlanReader, job: Job, index: int
) -> Iterator[tuple[Failure, str]]:
    """Yield the failures that a retry's shard is to mend, each with its part's name.

    Raises:
        DatasetError: The plan is damaged.
    """
    names = ["id", value_column(dataset.info.tower), "error", "message", "attempt", "part"]
    for row in plan.read_table(job, index, names).to_pylist():
        try:
            found = failure_of(row), plain_name(row["part"])
        except ValueError as error:
            place = f"{dataset.root}, job {job.id}: its plan"
            raise DatasetError(f"{place} is damaged ({error}): {RESTORE}") from error
        yield found

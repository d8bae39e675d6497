"""Retries: jobs that embed items again which ended as errors.

An older part's failure is superseded as soon as the part of a later retry with that id exists. This
rule alone decides; no file has to change, so no crash can leave it half done. The errors tables of
older parts are written again without superseded rows, as a service to readers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from clipfleet.error_codes import REPLACED
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.footer import failure_of, plain_name
from clipfleet.storage.format.id_index import IdIndex
from clipfleet.storage.format.parts import part_path, value_column
from clipfleet.storage.format.results import Failure
from clipfleet.storage.plan.jobs import Job, damaged_plan, read_job, shards
from clipfleet.storage.plan.reader import PlanReader

RETRY_MARK = "retry-"  # begins the token of a retry's plan files: their names show retries

_ID_DIGITS = 5  # of a job's id, which begins the names of its files
_MAX_JOBS = 10_000  # in memory
_jobs: dict[tuple[str, tuple[str, ...]], Job] = {}

_NO_JOB = ""  # of single items; sorts before the id of every job


def job_of(part: str) -> str:
    """Return the id of a part's job; for a part of single items, "", which sorts before all ids."""
    job = part.partition("-")[0]
    return job if job.isdecimal() else _NO_JOB


def retry_jobs(dataset: Dataset, *, after: str = _NO_JOB) -> list[Job]:
    """Return the retries that are later than a job, oldest first."""
    files: dict[str, list[str]] = {}
    for name in dataset.fs.list(PLAN_FOLDER):
        files.setdefault(name[:_ID_DIGITS], []).append(name)
    later = (
        _read_once(dataset, id_, tuple(names))
        for id_, names in sorted(files.items())
        if id_ > after and f"{id_}.json" in names and any(RETRY_MARK in name for name in names)
    )
    return [job for job in later if job.retry]  # another planner may have won a retry's number


def _read_once(dataset: Dataset, id_: str, names: tuple[str, ...]) -> Job:
    """Return a job, from memory if it was read before; `names` are its files in the plan.

    A record never changes, and the names have the tokens of its planner and of those that lost.
    """
    key = (dataset.root, names)
    if key not in _jobs:
        if len(_jobs) >= _MAX_JOBS:
            _jobs.clear()
        _jobs[key] = read_job(dataset, id_)
    return _jobs[key]


def retried_later(dataset: Dataset, ids: Collection[str], *, after: str) -> dict[str, Failure]:
    """Return the failures of some ids that the first retry after a job took."""
    found: dict[str, Failure] = {}
    for job in retry_jobs(dataset, after=after) if ids else ():
        with PlanReader(dataset) as plan:
            for shard in _shards_with(plan, job, ids):
                for failure, _ in taken_failures(dataset, plan, job, shard.index):
                    if failure.item.id in ids:
                        found.setdefault(failure.item.id, failure)
    return found


def superseded_ids(dataset: Dataset, ids: Collection[str], *, after: str) -> set[str]:
    """Return the ids of failures in a part of job `after` that the parts of later retries have."""
    found: set[str] = set()
    for job in retry_jobs(dataset, after=after) if ids else ():
        with PlanReader(dataset) as plan:
            for shard in _shards_with(plan, job, ids):
                here = {id_ for id_ in plan.read_rows(job, shard.index)[0] if id_ in ids}
                if here and dataset.fs.exists(part_path(shard.name)):
                    found |= here
    return found


def replaced_ids(dataset: Dataset, name: str, ids: Collection[str]) -> dict[str, Failure]:
    """Return those ids of a part whose vectors retries replace, with their failures meanwhile.

    Raises:
        DatasetError: A plan is damaged.
        StorageError: The disk did not answer.
    """
    found: dict[str, Failure] = {}
    for job in retry_jobs(dataset, after=job_of(name)) if ids else ():
        with PlanReader(dataset) as plan:
            for shard in _shards_with(plan, job, ids):
                for failure, part in taken_failures(dataset, plan, job, shard.index):
                    if part == name and failure.error == REPLACED and failure.item.id in ids:
                        found[failure.item.id] = failure
    return found


def replaced_parts(dataset: Dataset) -> set[str]:
    """Return the parts whose vectors the parts of retries replaced.

    Raises:
        DatasetError: A plan is damaged.
        StorageError: The disk did not answer.
    """
    found: set[str] = set()
    for job in retry_jobs(dataset):
        with PlanReader(dataset) as plan:
            for shard in shards(job):
                rows = taken_failures(dataset, plan, job, shard.index)
                parts = {part for failure, part in rows if failure.error == REPLACED}
                if not parts <= found and dataset.fs.exists(part_path(shard.name)):
                    found |= parts
    return found


class RetriedIds:
    """The ids in retries, each with its newest retry; on disk, so memory stays flat.

    `parts`: only the shards of retries whose parts are named there; by default all shards.
    """

    def __init__(self, dataset: Dataset, parts: Collection[str] | None = None) -> None:
        self._index = IdIndex()
        for job, ids in planned_retries(dataset, parts, newest_first=True):
            # The index keeps an id's first row.
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
    """Yield the ids in retries, one shard at a time; `parts` is as in `RetriedIds`."""
    found = retry_jobs(dataset)
    with PlanReader(dataset) as plan:
        for job in reversed(found) if newest_first else found:
            for shard in shards(job):
                ids, _ = plan.read_rows(job, shard.index)
                if parts is None or shard.name in parts:
                    yield job, ids


def attempts_of(dataset: Dataset, name: str) -> dict[str, int]:
    """Return the attempts at the ids of a retry's part before it; {} for any other part.

    Raises:
        DatasetError: The plan is damaged.
    """
    job = read_job(dataset, job_of(name)) if job_of(name) else None
    if job is None or not job.retry:
        return {}
    with PlanReader(dataset) as plan:
        rows = taken_failures(dataset, plan, job, int(name.partition("-")[2]))
        return {failure.item.id: failure.attempt for failure, _ in rows}


def _shards_with(plan: PlanReader, job: Job, ids: Collection[str]) -> Iterator[Shard]:
    """Yield the shards that may have some of the ids; most sources are sorted by id."""
    first, last = min(ids), max(ids)
    return (shard for shard in shards(job) if plan.may_have(job, shard.index, first, last))


def taken_failures(
    dataset: Dataset, plan: PlanReader, job: Job, index: int
) -> Iterator[tuple[Failure, str]]:
    """Yield the failures that a retry's shard took, each with its part's name.

    Raises:
        DatasetError: The plan is damaged.
    """
    names = ["id", value_column(dataset.info.tower), "error", "message", "attempt", "part"]
    for row in plan.read_table(job, index, names).to_pylist():
        try:
            failure, part = failure_of(row), plain_name(row["part"])
        except ValueError as error:
            raise damaged_plan(dataset, job, error) from error
        yield failure, part

"""Jobs: their records in the dataset, and their shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.validation import problems

_RECORD_SUFFIX = ".json"
_INDEX_BITS = 32  # of a shard's number; an index has 31 bits
Tombstone = Literal["removed", "gone"]  # REMOVED, GONE
RESTORE = "restore it, or submit into a new dataset"  # the remedy for a damaged plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job's record; `files` has the number of shards in each of its plan files.

    `sha256` has the SHA-256 of each plan file; older records lack it. The items of a `retry` were
    planned before, and ended as errors. `skipped` counts the files of the source's folder that were
    no items, by extension or kind. `removes` is the class of the tombstones that a removal leaves
    in place of its items: such a job is a retry that embeds nothing.
    """

    id: Annotated[str, Field(pattern=r"^[0-9]{5}$")]
    source: str
    tower: Tower
    items: NonNegativeInt
    shards: NonNegativeInt
    shard_size: PositiveInt
    token: Annotated[str, Field(pattern=r"^(retry-)?[0-9a-z]+$")]  # in the names of its plan files
    files: tuple[NonNegativeInt, ...]
    created_at: str  # ISO 8601, UTC
    retry: bool = False
    sha256: tuple[str, ...] = ()
    skipped: dict[str, PositiveInt] = field(default_factory=dict)
    removes: Tombstone | None = None

    def to_json(self) -> str:
        """Return the record's text, without the last four fields if they are empty or false."""
        fields = asdict(self)
        for name in ("retry", "sha256", "skipped", "removes"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


_JOB = TypeAdapter(Job)


def jobs(dataset: Dataset) -> list[Job]:
    """Return the jobs of a dataset, oldest first.

    Raises:
        DatasetError: A record is damaged.
    """
    return [read_job(dataset, id_) for id_ in job_ids(dataset)]


def skipped_by_last_jobs(planned: Iterable[Job]) -> dict[str, int]:
    """Return what the last job of each source skipped, in all."""
    last = {job.source: job.skipped for job in planned}
    found: Counter[str] = Counter()
    for skipped in last.values():
        found.update(skipped)
    return dict(found)


def job_ids(dataset: Dataset) -> list[str]:
    """Return the ids of the jobs of a dataset, oldest first."""
    names = dataset.fs.list(PLAN_FOLDER)
    return [n.removesuffix(_RECORD_SUFFIX) for n in names if n.endswith(_RECORD_SUFFIX)]


def read_job(dataset: Dataset, id_: str) -> Job:
    """Return a job.

    Raises:
        DatasetError: There is no such job, or its record is damaged.
    """
    path = job_path(id_)
    try:
        text = dataset.fs.read(path)
    except FileNotFoundError:
        raise DatasetError(
            f"dataset {dataset.root} has no job {id_}: its plan was deleted, or the message is "
            "another dataset's"
        ) from None
    job = parse_job(text, f"{dataset.root}/{path}", remedy=RESTORE)
    if job.id != id_:
        raise DatasetError(
            f"{dataset.root}/{path} is damaged, it is the record of job {job.id}: {RESTORE}"
        )
    return job


def parse_job(text: str | bytes, location: str, *, remedy: str) -> Job:
    """Return the job of a record; `location` and `remedy` are for messages.

    Raises:
        DatasetError: The record is damaged.
    """
    try:
        job = _JOB.validate_json(text, strict=True)
    except ValidationError as error:
        raise DatasetError(f"{location} is damaged ({problems(error)}): {remedy}") from error
    shards = -(-job.items // job.shard_size)
    checksums = len(job.sha256) or len(job.files)
    if job.removes and not job.retry:
        raise DatasetError(f"{location} is damaged, it removes and is no retry: {remedy}")
    if not sum(job.files) == job.shards == shards or checksums != len(job.files):
        raise DatasetError(f"{location} is damaged, its numbers contradict each other: {remedy}")
    return job


def publish(dataset: Dataset, job: Job) -> bool:
    """Write a job's record, which makes the job exist; return False if its number is taken.

    An existing record of this very job counts as written: a store may write it and lose the answer.

    Raises:
        DatasetError: The existing record is damaged.
    """
    path = job_path(job.id)
    if not dataset.fs.exists(path) and dataset.fs.create(path, job.to_json().encode()):
        return True
    return read_job(dataset, job.id) == job


def shards(job: Job) -> Iterator[Shard]:
    """Yield the shards of a job; every shard but the last has `shard_size` items."""
    return (shard_of(job, index) for index in range(job.shards))


def shard_of(job: Job, index: int) -> Shard:
    """Return the shard of a job with an index."""
    size = min(job.shard_size, job.items - index * job.shard_size)
    return Shard(job=job.id, index=index, size=size)


def shard_number(job_id: str, index: int) -> int:
    """Return a number for a shard; a later job's shards have larger ones, all over 2^32."""
    return int(job_id) << _INDEX_BITS | index


def numbered_shard(number: int) -> tuple[str, int]:
    """Return the id of the job and the index of the shard with a number."""
    return f"{number >> _INDEX_BITS:05d}", number & ((1 << _INDEX_BITS) - 1)


def is_shard_number(number: int) -> bool:
    """Return whether a number is that of a shard: smaller ones have another meaning."""
    return number >= 1 << _INDEX_BITS


def damaged_plan(dataset: Dataset, job: Job, reason: object) -> DatasetError:
    """Return the error about rows of a plan that describe no items."""
    return DatasetError(f"{dataset.root}, job {job.id}: its plan is damaged ({reason}): {RESTORE}")


def job_path(job_id: str) -> str:
    """Return the path of a job's record; it is written last, and makes the job exist."""
    return f"{PLAN_FOLDER}/{job_id}{_RECORD_SUFFIX}"


def plan_file_path(job_id: str, token: str, number: int) -> str:
    """Return the path of one of a job's plan files, which have a row group for each shard."""
    return f"{PLAN_FOLDER}/{job_id}-{token}-{number:04d}.parquet"

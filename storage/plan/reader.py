"""Jobs: their records in the dataset, and the items of their shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError, MessageError
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    ranges_of,
    read_row_group,
)
from clipfleet.storage.format.parts import value_column
from clipfleet.storage.plan.moves import Moves, read_moves
from clipfleet.validation import problems

_RECORD_SUFFIX = ".json"
_INDEX_BITS = 32  # of a shard's number; an index has 31 bits
_MAX_RANGES = 10_000  # plan files
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


def read_job_rows(dataset: Dataset, job: Job) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the ids and the uris or texts of a job's items, one shard at a time.

    Raises:
        DatasetError: A plan file is missing or damaged.
        StorageError: The disk did not answer.
    """
    with PlanReader(dataset) as reader:
        for index in range(job.shards):
            yield reader.read_rows(job, index)


# Of ids in the row groups of plan files, by dataset and path. A plan file never changes, and its
# name has a token of its planner.
_ranges: dict[tuple[str, str], list[tuple[str, str] | None]] = {}


class PlanReader:
    """A reader of shards' plans; it keeps the last plan file open."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._jobs: dict[str, Job] = {}
        self._path = ""
        self._file: BinaryIO | None = None
        self._parquet: pq.ParquetFile | None = None
        self._moves: Moves | None = None

    def read(self, shard: Shard) -> list[Item]:
        """Return the items of a shard, in the source's order.

        Raises:
            MessageError: The job has no such shard.
            DatasetError: The dataset has no such job, or its plan is damaged.
        """
        job = self.job(shard)
        column = value_column(job.tower)
        rows = zip(*self.read_rows(job, shard.index), self._faults(job, shard.index), strict=True)
        try:
            return [Item(id=id_, fault=fault, **{column: value}) for id_, value, fault in rows]
        except ValidationError as error:
            raise damaged_plan(self._dataset, job, problems(error)) from error

    def read_rows(self, job: Job, index: int) -> tuple[list[str], list[str]]:
        """Return the ids and the uris or texts of the shard with an index.

        Raises:
            DatasetError: A plan file is missing or damaged.
            StorageError: The disk did not answer.
        """
        column = value_column(job.tower)
        table = self.read_table(job, index, ["id", column])
        return table["id"].to_pylist(), table[column].to_pylist()

    def _faults(self, job: Job, index: int) -> list[str | None]:
        """Return why rows of the source are no items; plans of earlier versions do not say it."""
        path, group = _file_and_group(job, index)
        with self._plan_errors(path):
            file = self._open(path)
            if "fault" not in file.schema_arrow.names:
                return [None] * file.metadata.row_group(group).num_rows
            faults: list[str | None] = read_row_group(file, group, ["fault"])["fault"].to_pylist()
            return faults

    def read_table(self, job: Job, index: int, columns: list[str]) -> pa.Table:
        """Return columns of the plan of the shard with an index; uris as `moved.json` has them.

        Raises:
            DatasetError: A plan file is missing or damaged.
            StorageError: The disk did not answer.
        """
        path, group = _file_and_group(job, index)
        with self._plan_errors(path):
            table = read_row_group(self._open(path), group, columns)
        return self._at_present_place(table, job) if "uri" in columns else table

    def may_have(self, job: Job, index: int, first: str, last: str) -> bool:
        """Return whether a shard may have ids from `first` to `last`; reads no row.

        Raises:
            DatasetError: A plan file is missing or damaged.
            StorageError: The disk did not answer.
        """
        path, group = _file_and_group(job, index)
        key = (self._dataset.root, path)
        if key not in _ranges:
            with self._plan_errors(path):
                ranges = ranges_of(self._open(path), "id")
            if len(_ranges) >= _MAX_RANGES:
                _ranges.clear()
            _ranges[key] = ranges
        # Without that row group, the read that follows raises the error.
        found = _ranges[key][group] if group < len(_ranges[key]) else None
        return found is None or (found[0] <= last and first <= found[1])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path, self._file, self._parquet = "", None, None

    def __enter__(self) -> PlanReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def job(self, shard: Shard) -> Job:
        """Return the job of a shard.

        Raises:
            MessageError: The job has no such shard.
            DatasetError: The dataset has no such job, or its record is damaged.
        """
        if shard.job not in self._jobs:
            self._jobs[shard.job] = read_job(self._dataset, shard.job)
        job = self._jobs[shard.job]
        size = min(job.shard_size, job.items - shard.index * job.shard_size)
        if shard.index >= job.shards or shard.size != size:
            raise MessageError(
                f"job {job.id} of {self._dataset.root} has {job.shards} shards of "
                f"{job.shard_size} items; there is none with index {shard.index} and "
                f"{shard.size} items"
            )
        return job

    def _at_present_place(self, table: pa.Table, job: Job) -> pa.Table:
        if self._moves is None:
            self._moves = read_moves(self._dataset)
        if not self._moves.moves:
            return table
        uris = [self._moves.uri(uri, job.id) for uri in table["uri"].to_pylist()]
        at = table.schema.get_field_index("uri")
        return table.set_column(at, table.schema.field(at), pa.array(uris, pa.string()))

    @contextmanager
    def _plan_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DatasetError(
                f"plan file {self._dataset.root}/{path} is gone: {RESTORE}"
            ) from None
        except PARQUET_ERRORS as error:
            raise parquet_error(error, f"{self._dataset.root}/{path}", remedy=RESTORE) from error

    def _open(self, path: str) -> pq.ParquetFile:
        if path != self._path or self._parquet is None:
            self.close()
            self._file = self._dataset.fs.open(path)
            self._parquet = open_parquet(self._file)
            self._path = path
        return self._parquet


def _file_and_group(job: Job, index: int) -> tuple[str, int]:
    """Return the plan file of a shard, and the index of its row group."""
    number = 0
    while index >= job.files[number]:
        index -= job.files[number]
        number += 1
    return plan_file_path(job.id, job.token, number), index


def damaged_plan(dataset: Dataset, job: Job, reason: object) -> DatasetError:
    """Return the error about rows of a plan that describe no items."""
    return DatasetError(f"{dataset.root}, job {job.id}: its plan is damaged ({reason}): {RESTORE}")


def job_path(job_id: str) -> str:
    """Return the path of a job's record; it is written last, and makes the job exist."""
    return f"{PLAN_FOLDER}/{job_id}{_RECORD_SUFFIX}"


def plan_file_path(job_id: str, token: str, number: int) -> str:
    """Return the path of one of a job's plan files, which have a row group for each shard."""
    return f"{PLAN_FOLDER}/{job_id}-{token}-{number:04d}.parquet"

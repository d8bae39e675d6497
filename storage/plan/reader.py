"""The rows of plans: the items of the shards of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from clipfleet.errors import DatasetError, MessageError
from clipfleet.items import Item
from clipfleet.messages import Shard
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    ranges_of,
    read_row_group,
)
from clipfleet.storage.format.parts import value_column
from clipfleet.storage.plan.jobs import RESTORE, Job, damaged_plan, plan_file_path, read_job
from clipfleet.storage.plan.moves import Moves, read_moves
from clipfleet.validation import problems

_MAX_RANGES = 10_000  # plan files


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

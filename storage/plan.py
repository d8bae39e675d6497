"""The plan: which items a job has, in which shard, kept in the dataset.

A job's items lie in Parquet files, one row group for each shard; its record is written
last, and makes the job exist. Planning is optimistic: job numbers follow each other, and
of two planners that take the same number one wins, the other deletes its files.
"""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.errors import DatasetError, SourceError
from clipfleet.jobs import Item
from storage.dataset import PLAN_FOLDER, Dataset, utc_now
from storage.jobs import Job, PlanReader, file_path, jobs, record_path, shards
from storage.new_items import new_items
from storage.parts import value_column
from storage.sources import Source

__all__ = ["Job", "PlanReader", "jobs", "plan_items", "shards"]

MAX_JOBS = 99_999  # five digits in file names
SHARDS_PER_FILE = 1000
FILE_SIZE_BYTES = 16 << 20  # compressed; what a planner holds in memory


def plan_items(dataset: Dataset, source: Source, shard_size: int) -> Job | None:
    """Plan the items of a source that the dataset does not have; None if it has them all.

    Raises:
        DuplicateIdError: Two items share an id, or the dataset has an id for another uri or
            text; nothing is planned.
        SourceError: The source cannot be read; nothing is planned.
        DatasetError: Another submit planned meanwhile; nothing is planned, run again.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: a shard has at least one item")
    known = jobs(dataset)
    _delete_leftovers(dataset, known)
    writer = _PlanWriter(dataset, _next_id(dataset, known), shard_size)
    try:
        for item in new_items(dataset, source):
            writer.add(item)
        job = writer.finish(source.description)
    except BaseException:
        writer.discard()
        raise
    # If this raises, the record may be there all the same, and the files must stay.
    if job is None or dataset.fs.create(record_path(job.id), job.to_json().encode()):
        return job
    writer.discard()
    raise DatasetError(
        f"another submit planned job {job.id} of {dataset.root} meanwhile, nothing was planned: "
        "run again"
    )


def _next_id(dataset: Dataset, known: list[Job]) -> str:
    number = max((int(job.id) for job in known), default=0) + 1
    if number > MAX_JOBS:
        raise DatasetError(f"dataset {dataset.root} has {MAX_JOBS} jobs, the most: begin another")
    return f"{number:05d}"


class _PlanWriter:
    """Gathers items into shards and shards into plan files."""

    def __init__(self, dataset: Dataset, job_id: str, shard_size: int) -> None:
        self._dataset = dataset
        self._job_id = job_id
        self._shard_size = shard_size
        self._token = uuid.uuid4().hex[:12]
        self._column = value_column(dataset.info.tower)
        self._schema = pa.schema(
            [pa.field(n, pa.string(), nullable=False) for n in ("id", self._column)]
        )
        self._shard: list[Item] = []
        self._items = 0
        self._files: list[int] = []  # shards of each finished file
        self._shards_in_file = 0
        self._sink = pa.BufferOutputStream()
        self._parquet: pq.ParquetWriter | None = None

    def add(self, item: Item) -> None:
        self._shard.append(item)
        if len(self._shard) == self._shard_size:
            self._end_shard()

    def finish(self, source: str) -> Job | None:
        if self._shard:
            self._end_shard()
        self._end_file()
        if not self._items:
            return None
        return Job(
            id=self._job_id,
            source=source,
            tower=self._dataset.info.tower,
            items=self._items,
            shards=sum(self._files),
            shard_size=self._shard_size,
            token=self._token,
            files=tuple(self._files),
            created_at=utc_now(),
        )

    def discard(self) -> None:
        for number in range(len(self._files) + 1):
            self._dataset.fs.delete(file_path(self._job_id, self._token, number))

    def _end_shard(self) -> None:
        ids = [item.id for item in self._shard]
        values = [getattr(item, self._column) for item in self._shard]
        if None in values:
            raise SourceError(
                f"item {ids[values.index(None)]!r} has no {self._column}, which the "
                f"{self._dataset.info.tower} tower embeds: choose a source of the other kind"
            )
        table = pa.table({"id": ids, self._column: values}, schema=self._schema)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
            )
        self._parquet.write_table(table, row_group_size=len(ids))
        self._items += len(ids)
        self._shards_in_file += 1
        self._shard = []
        if self._shards_in_file == SHARDS_PER_FILE or self._sink.tell() >= FILE_SIZE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._parquet is None:
            return
        self._parquet.close()
        path = file_path(self._job_id, self._token, len(self._files))
        if not self._dataset.fs.create(path, memoryview(self._sink.getvalue())):
            raise DatasetError(f"plan file {self._dataset.root}/{path} exists already: run again")
        self._files.append(self._shards_in_file)
        self._shards_in_file = 0
        self._sink = pa.BufferOutputStream()
        self._parquet = None


def _delete_leftovers(dataset: Dataset, known: list[Job]) -> None:
    """Delete the plan files of planners that lost, or were killed, under a number that is won.

    Files under the next number may be those of a planner at work, and stay.
    """
    dataset.fs.tidy()
    tokens = {job.id: job.token for job in known}
    for name in dataset.fs.list(PLAN_FOLDER):
        number, _, rest = name.partition("-")
        if number in tokens and rest and not rest.startswith(f"{tokens[number]}-"):
            dataset.fs.delete(f"{PLAN_FOLDER}/{name}")

"""The plan: which items a job has, in which shard, kept in the dataset.

A job's items lie in Parquet files, one row group for each shard; its record is written
last, and makes the job exist. Planning is optimistic: job numbers follow each other, and
of two planners that take the same number one wins, the other deletes its files.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.architectures import Tower
from clipfleet.error_codes import BAD_ITEM
from clipfleet.errors import DatasetError, SourceError
from clipfleet.items import Item
from clipfleet.storage.commit.errors import standing_failures
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset, utc_now
from clipfleet.storage.format.parts import errors_schema, item_value, value_column
from clipfleet.storage.jobs.plan_reader import Job, PlanReader, file_path, jobs, publish, shards
from clipfleet.storage.jobs.retries import RETRY_MARK, Retried
from clipfleet.storage.planner.new_items import new_items
from clipfleet.storage.sources.base import Source

__all__ = ["Job", "PlanReader", "jobs", "plan_items", "plan_retry", "shards"]

MAX_JOBS = 99_999  # five digits in file names
SHARDS_PER_FILE = 1000
FILE_SIZE_BYTES = 16 << 20  # compressed; what a planner holds in memory

Row = tuple[str | int, ...]  # of a plan file: see `_schema`


def plan_items(dataset: Dataset, source: Source, shard_size: int) -> Job | None:
    """Plan the items of a source that the dataset does not have; None if it has them all.

    Raises:
        DuplicateIdError: Two items share an id, or the dataset has an id for another uri or
            text; nothing is planned.
        SourceError: The source cannot be read; nothing is planned.
        DatasetError: Another submit planned meanwhile; nothing is planned, run again. Or a plan
            is damaged.
    """
    with closing(new_items(dataset, source)) as items:
        rows = (_row(dataset, item) for item in items)
        return _plan(dataset, rows, source.description, shard_size, retry=False)


def plan_retry(dataset: Dataset, only: Collection[str], shard_size: int) -> Job | None:
    """Plan the items that ended as errors of these classes once more; None if there are none.

    Items that an earlier retry still has in hand are left to it. Bad items are never among
    them: what was wrong with them was never kept.

    Raises:
        DatasetError: Another submit or retry planned meanwhile; nothing is planned, run again.
            Or an errors table is damaged.
    """
    told = f"retry of {', '.join(only) or 'all errors'}"
    return _plan(dataset, _retry_rows(dataset, only), told, shard_size, retry=True)


def _row(dataset: Dataset, item: Item) -> Row:
    tower = dataset.info.tower
    value = getattr(item, value_column(tower))
    if value is None:
        raise SourceError(
            f"item {item.id!r} has no {value_column(tower)}, which the {tower} tower embeds: "
            "choose a source of the other kind"
        )
    return item.id, value


def _retry_rows(dataset: Dataset, only: Collection[str]) -> Iterator[Row]:
    """Yield what stands in errors tables; whoever then wins the next job's number has it.

    No id's standing row changes but by a job that planned the id: if none came in between,
    all of these still stand.
    """
    with closing(Retried(dataset)) as retried:
        for part, failure in standing_failures(dataset, retried):
            if failure.error != BAD_ITEM and (not only or failure.error in only):
                item = failure.item
                told = (failure.error, failure.message, failure.attempt, part)
                yield (item.id, item_value(item), *told)


def _plan(
    dataset: Dataset, rows: Iterable[Row], source: str, shard_size: int, *, retry: bool
) -> Job | None:
    """Plan rows; the job's number is chosen before the first of them is read.

    So another job that is planned meanwhile, which these rows do not regard, has taken it.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: a shard has at least one item")
    known = jobs(dataset)
    _delete_leftovers(dataset, known)
    writer = _PlanWriter(dataset, _next_id(dataset, known), shard_size, retry=retry)
    with writer.discarded_on_error():
        for row in rows:
            writer.add(row)
        job = writer.finish(source)
    if job is None:
        return None
    # If this raises, the job may be there all the same, and the files must stay.
    if publish(dataset, job):
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

    def __init__(self, dataset: Dataset, job_id: str, shard_size: int, *, retry: bool) -> None:
        self._dataset = dataset
        self._job_id = job_id
        self._shard_size = shard_size
        self._retry = retry
        self._token = (RETRY_MARK if retry else "") + uuid.uuid4().hex[:12]
        self._schema = _schema(dataset.info.tower, retry=retry)
        self._shard: list[Row] = []
        self._items = 0
        self._files: list[int] = []  # shards of each finished file
        self._shards_in_file = 0
        self._sink = pa.BufferOutputStream()
        self._parquet: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self._shard.append(row)
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
            retry=self._retry,
        )

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        for number in range(len(self._files) + 1):
            self._dataset.fs.delete(file_path(self._job_id, self._token, number))

    def _end_shard(self) -> None:
        columns = [list(column) for column in zip(*self._shard, strict=True)]
        table = pa.table(dict(zip(self._schema.names, columns, strict=True)), schema=self._schema)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=["id"] if self._retry else False,  # who looks for few ids
            )
        self._parquet.write_table(table, row_group_size=len(self._shard))
        self._items += len(self._shard)
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


def _schema(tower: Tower, *, retry: bool) -> pa.Schema:
    """Return a plan's columns; a retry's have the failures so far, and the parts they are in."""
    fields = errors_schema(tower) if retry else list(errors_schema(tower))[:2]
    part = [pa.field("part", pa.string(), nullable=False)] if retry else []
    return pa.schema([*fields, *part])


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

"""The planner: it writes a job's items, in shards, into the dataset.

The items are in Parquet files, with a row group for each shard. The job's record is written last,
and makes the job exist. Planning is optimistic: job numbers follow each other. If two planners take
the same number, one wins, and the other deletes its files.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.architectures import Tower
from clipfleet.error_codes import BAD_ITEM, ERROR_CODES, TOMBSTONES
from clipfleet.errors import DatasetError, SourceError
from clipfleet.items import Item
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import PLAN_FOLDER, Dataset, utc_now
from clipfleet.storage.format.errors_table import errors_schema
from clipfleet.storage.format.parts import item_value, value_column
from clipfleet.storage.plan.failures import list_parts, read_failures, standing_failures
from clipfleet.storage.plan.jobs import Job, Tombstone, jobs, plan_file_path, publish
from clipfleet.storage.plan.moves import read_moves
from clipfleet.storage.plan.new_items import OnPlanning, new_items, say_nothing
from clipfleet.storage.plan.retries import RETRY_MARK, RetriedIds, job_of
from clipfleet.storage.sources.base import Source

MAX_JOBS = 99_999  # five digits in file names
SHARDS_PER_FILE = 1000
FILE_SIZE_BYTES = 16 << 20  # compressed; a planner holds one file in memory

Row = tuple[str | int | None, ...]  # of a plan file: see `_schema`, `item_row` and `Standing.row`


class PlannedMeanwhileError(DatasetError):
    """Another process planned a job meanwhile, and nothing was planned."""


def plan_items(
    dataset: Dataset,
    source: Source,
    shard_size: int,
    *,
    on_planning: OnPlanning = say_nothing,
) -> Job | None:
    """Plan the items of a source that the dataset does not have; None if it has all of them.

    `on_planning` is called after some thousand rows.

    Raises:
        DuplicateIdError: Two items have one id, or the dataset has an id with another uri or
            text; nothing is planned.
        SourceError: The source cannot be read; nothing is planned.
        PlannedMeanwhileError: Another process planned a job meanwhile; nothing is planned.
        DatasetError: A plan is damaged.
    """
    with closing(new_items(dataset, source, on_planning=on_planning)) as items:
        rows = (item_row(dataset, item) for item in items)
        return plan_rows(
            dataset, rows, source.description, shard_size, retry=False, skipped=source.skipped
        )


def plan_retry(dataset: Dataset, only: Collection[str], shard_size: int) -> Job | None:
    """Plan a retry of the items that ended in these classes of error; None if there are none.

    `only` may be empty: all classes but tombstones. Items of an earlier retry that is not done are
    left out, and so are bad items: the dataset does not keep their wrong values.

    Raises:
        PlannedMeanwhileError: Another process planned a job meanwhile; nothing is planned.
        DatasetError: A part is damaged.
    """
    source = f"retry of {', '.join(only) or 'all errors'}"
    return plan_rows(dataset, _retry_rows(dataset, only), source, shard_size, retry=True)


def item_row(dataset: Dataset, item: Item) -> Row:
    """Return the row of an item in the plan of a source.

    Raises:
        SourceError: It is an item of the other tower.
    """
    tower = dataset.info.tower
    value = getattr(item, value_column(tower))
    if value is None:
        raise SourceError(
            f"item {item.id!r} has no {value_column(tower)}, which the {tower} tower embeds: "
            "choose a source of the other kind"
        )
    return item.id, value, item.fault


def _retry_rows(dataset: Dataset, only: Collection[str]) -> Iterator[Row]:
    """Yield the standing failures, for the planner that then wins the next job's number.

    Only a new job can supersede a standing failure. So if that number was still free, all of these
    failures still stand.
    """
    moves = read_moves(dataset)
    classes = set(only) or set(ERROR_CODES) - TOMBSTONES
    _, failed = list_parts(dataset)
    with closing(RetriedIds(dataset)) as retried:
        found = standing_failures(failed, partial(read_failures, dataset), retried)
        for part, failure in found:
            if failure.error != BAD_ITEM and failure.error in classes:
                item = failure.item
                reason = (failure.error, failure.message, failure.attempt)
                yield (item.id, moves.uri(item_value(item), job_of(part)), *reason, part, None)


def plan_rows(
    dataset: Dataset,
    rows: Iterable[Row],
    source: str,
    shard_size: int,
    *,
    retry: bool,
    known: list[Job] | None = None,
    skipped: Mapping[str, int] = MappingProxyType({}),
    removes: Tombstone | None = None,
) -> Job | None:
    """Plan rows as the next job after those that are `known`, by default all; None without rows.

    `skipped` goes into the job's record as it is after the last row. `removes` is as in `Job`.

    The job's number is chosen before the first row is read. So a job that is planned meanwhile,
    which the rows do not take into account, takes that number, and this plan fails.

    Raises:
        PlannedMeanwhileError: Another process planned a job meanwhile; nothing is planned.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: a shard has at least one item")
    known = jobs(dataset) if known is None else known
    _delete_leftovers(dataset, known)
    writer = _PlanWriter(dataset, _next_id(dataset, known), shard_size, retry=retry)
    with writer.discarded_on_error():
        for row in rows:
            writer.add(row)
        job = writer.finish(source, skipped, removes)
    if job is None:
        return None
    # If this raises, the record may exist nevertheless, and the files must stay.
    if publish(dataset, job):
        return job
    writer.discard()
    raise PlannedMeanwhileError(
        f"another process planned job {job.id} of {dataset.root} meanwhile, nothing was planned: "
        "run again"
    )


def _next_id(dataset: Dataset, known: list[Job]) -> str:
    number = max((int(job.id) for job in known), default=0) + 1
    if number > MAX_JOBS:
        raise DatasetError(f"dataset {dataset.root} has {MAX_JOBS} jobs, the most: begin another")
    return f"{number:05d}"


class _PlanWriter:
    """A writer that collects rows into shards, and shards into plan files."""

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
        self._sha256: list[str] = []  # of each finished file
        self._shards_in_file = 0
        self._sink = pa.BufferOutputStream()
        self._parquet: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self._shard.append(row)
        if len(self._shard) == self._shard_size:
            self._end_shard()

    def finish(
        self, source: str, skipped: Mapping[str, int], removes: Tombstone | None
    ) -> Job | None:
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
            sha256=tuple(self._sha256),
            skipped=dict(skipped),
            removes=removes,
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
            self._dataset.fs.delete(plan_file_path(self._job_id, self._token, number))

    def _end_shard(self) -> None:
        columns = [list(column) for column in zip(*self._shard, strict=True)]
        table = pa.table(dict(zip(self._schema.names, columns, strict=True)), schema=self._schema)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=["id"] if self._retry else False,  # ids are searched in retries
                write_page_checksum=True,
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
        path = plan_file_path(self._job_id, self._token, len(self._files))
        data = memoryview(self._sink.getvalue())
        if not self._dataset.fs.create(path, data):
            raise DatasetError(f"plan file {self._dataset.root}/{path} exists already: run again")
        self._sha256.append(file_sha256(data))
        self._files.append(self._shards_in_file)
        self._shards_in_file = 0
        self._sink = pa.BufferOutputStream()
        self._parquet = None


def _schema(tower: Tower, *, retry: bool) -> pa.Schema:
    """Return a plan's columns; a retry's plan also has the failures so far, and their parts.

    `fault` says why a row of the source is no item.
    """
    fields = errors_schema(tower) if retry else list(errors_schema(tower))[:2]
    part = [pa.field("part", pa.string(), nullable=False)] if retry else []
    return pa.schema([*fields, *part, pa.field("fault", pa.string())])


def _delete_leftovers(dataset: Dataset, known: list[Job]) -> None:
    """Delete the plan files, with the numbers of existing jobs, of other planners.

    Those planners lost the number, or were killed. Files with the next number stay: their planner
    may be at work.
    """
    dataset.fs.tidy()
    tokens = {job.id: job.token for job in known}
    for name in dataset.fs.list(PLAN_FOLDER):
        number, _, rest = name.partition("-")
        if number in tokens and rest and not rest.startswith(f"{tokens[number]}-"):
            dataset.fs.delete(f"{PLAN_FOLDER}/{name}")

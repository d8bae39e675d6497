"""The ids that a dataset has already: planned, or in the parts of items that came singly."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from storage.dataset import PARTS_FOLDER, Dataset
from storage.fences import read_fence
from storage.id_index import IdIndex
from storage.jobs import Job, jobs, read_job_rows
from storage.parquet_files import PARQUET_ERRORS, open_parquet, parquet_error, read_row_groups
from storage.parts import (
    ITEMS_PREFIX,
    item_value,
    part_path,
    read_footer,
    value_column,
    way_out,
)

ARRIVED = 0  # the origin of an id that is in a part of items; a planned one has minus its job

_DIGEST_BYTES = 16


class KnownIds:
    """The ids that a dataset had at the last `refresh`; on disk, so memory stays flat."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._jobs: set[str] = set()
        self._parts: set[str] = set()
        self.index = IdIndex()

    def refresh(self) -> None:
        """Read the plans, and the parts of single items, that are new since last time.

        The job of a part that fences one is published, if its planner died before it did. If a
        part is gone that was read before, everything is read anew: its ids may come again.

        Raises:
            DatasetError: A plan or a part is damaged.
        """
        names = items_parts(self._dataset)
        if not self._parts.issubset(names):
            self._clear()
        for name in names:
            if name not in self._parts:
                self._add_part(name)
        for job in jobs(self._dataset):
            self._add_job(job)

    def note(self, name: str) -> None:
        """Count a part of single items, which the caller has read, among those that were read."""
        self._parts.add(name)

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts of single items that were read."""
        return frozenset(self._parts)

    def _clear(self) -> None:
        self.index.close()
        self.index = IdIndex()
        self._jobs.clear()
        self._parts.clear()

    def _add_job(self, job: Job) -> None:
        if job.id in self._jobs:
            return
        origin = -int(job.id)
        for ids, values in read_job_rows(self._dataset, job):
            self.index.add((i, digest(v), origin) for i, v in zip(ids, values, strict=True))
        self._jobs.add(job.id)

    def _add_part(self, name: str) -> None:
        items = 0
        for ids, values in read_arrived_rows(self._dataset, name):
            self.index.add((i, digest(v), ARRIVED) for i, v in zip(ids, values, strict=True))
            items += len(ids)
        # By the fence itself: a network file system may list the plan as it was a minute ago.
        job = None if items else read_fence(self._dataset, name)
        if job is not None:
            self._add_job(job)
        self._parts.add(name)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.index

    def __len__(self) -> int:
        return len(self.index)

    def close(self) -> None:
        self.index.close()


def digest(value: str) -> bytes:
    """Return 16 bytes that stand for a uri or text."""
    return blake2b(value.encode(), digest_size=_DIGEST_BYTES).digest()


def items_parts(dataset: Dataset) -> list[str]:
    """Return the names of the parts of items that came singly, sorted."""
    names = (n for n in dataset.fs.list(PARTS_FOLDER) if n.startswith(ITEMS_PREFIX))
    return [name.removesuffix(".parquet") for name in names]


def read_arrived_rows(dataset: Dataset, name: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the ids and the uris or texts of a part of single items, its failures last.

    Raises:
        DatasetError: The part is damaged.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return  # deleted since it was listed
    column = value_column(dataset.info.tower)
    with file:
        failures = read_footer(file, path=part_path(name)).failures
        try:
            for rows in read_row_groups(open_parquet(file), ["id", column]):
                yield rows["id"].to_pylist(), rows[column].to_pylist()
        except PARQUET_ERRORS as error:
            path = f"{dataset.root}/{part_path(name)}"
            raise parquet_error(error, path, remedy=way_out(name)) from error
    yield [f.item.id for f in failures], [item_value(f.item) for f in failures]

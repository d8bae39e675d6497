"""The ids that a dataset has already: planned, or in the parts of items that came singly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import BinaryIO

from storage.dataset import PARTS_FOLDER, Dataset
from storage.fences import fenced_job
from storage.id_index import IdIndex
from storage.jobs import Job, job_ids, read_job, read_job_rows
from storage.parquet_files import PARQUET_ERRORS, open_parquet, parquet_error, read_row_groups
from storage.parts import (
    ITEMS_PREFIX,
    Footer,
    item_value,
    part_path,
    read_footer,
    value_column,
    way_out,
)

ARRIVED = 0  # the origin of an id that is in a part of items; a planned one has minus its job

Rows = tuple[list[str], list[str]]  # ids, and uris or texts

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
        for id_ in job_ids(self._dataset):
            if id_ not in self._jobs:
                self._add_job(read_job(self._dataset, id_))
        for name in names:
            if name not in self._parts:
                self._add_part(name)

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
        origin = -int(job.id)
        for ids, values in read_job_rows(self._dataset, job):
            self.index.add((i, digest(v), origin) for i, v in zip(ids, values, strict=True))
        self._jobs.add(job.id)

    def _add_part(self, name: str) -> None:
        with open_arrived(self._dataset, name) as (footer, rows):
            for ids, values in rows:
                self.index.add((i, digest(v), ARRIVED) for i, v in zip(ids, values, strict=True))
        # By the fence itself: a network file system may list the plan as it was a minute ago.
        job = fenced_job(self._dataset, footer, self._jobs) if footer is not None else None
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


@contextmanager
def open_arrived(dataset: Dataset, name: str) -> Iterator[tuple[Footer | None, Iterator[Rows]]]:
    """Open a part of single items: its footer, and its ids and uris or texts, its failures last.

    Without a footer, and without rows, if it was deleted since it was listed.

    Raises:
        DatasetError: The part is damaged.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        yield None, iter(())
        return
    with file:
        footer = read_footer(file, path=part_path(name))
        yield footer, _arrived_rows(dataset, name, file, footer)


def _arrived_rows(dataset: Dataset, name: str, file: BinaryIO, footer: Footer) -> Iterator[Rows]:
    column = value_column(dataset.info.tower)
    try:
        for rows in read_row_groups(open_parquet(file), ["id", column]) if footer.vectors else ():
            yield rows["id"].to_pylist(), rows[column].to_pylist()
    except PARQUET_ERRORS as error:
        path = f"{dataset.root}/{part_path(name)}"
        raise parquet_error(error, path, remedy=way_out(name)) from error
    failures = footer.failures
    yield [f.item.id for f in failures], [item_value(f.item) for f in failures]

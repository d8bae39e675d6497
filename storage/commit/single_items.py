"""Arrivals: items that came singly, not by a plan, and the parts that they are written to.

These parts are numbered, and a number is taken by writing its part. Whoever has read all
parts below a number and then wins it knows every id that came before, so no id is written
twice, however many workers hold it; who loses reads the winner's part and tries the next.

A part that somebody moved away leaves its record, which keeps its number from being taken
again, before whoever had read that part could notice: the next part withdraws it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from clipfleet.model_card import ModelCard
from clipfleet.storage.commit.commit import Commit, commit_first, complete, withdraw
from clipfleet.storage.format.dataset import PARTS_FOLDER, Dataset
from clipfleet.storage.format.id_index import IdIndex
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    Embedded,
    Failure,
    part_path,
    read_footer,
    way_out,
)
from clipfleet.storage.format.records import record_names
from clipfleet.storage.jobs.plan_reader import job_ids, read_job, read_job_rows

_DIGITS = 10
_NO_DIGEST = b""  # of ids that are only looked for


class KnownIds:
    """The ids that a stream had at the last `refresh`; on disk, so memory stays flat."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._jobs: set[str] = set()
        self._parts: set[str] = set()
        self._index = IdIndex()

    def refresh(self) -> None:
        """Read the parts of single items, and the plans of retries, that are new since last time.

        An item that a retry has stays known without its first part. If a part is gone that was
        read before, everything is read anew: its ids may come again.

        Raises:
            DatasetError: A plan or a part is damaged.
        """
        names = items_parts(self._dataset)
        if not self._parts.issubset(names):
            self._clear()
        for id_ in job_ids(self._dataset):
            if id_ not in self._jobs:
                for ids, _ in read_job_rows(self._dataset, read_job(self._dataset, id_)):
                    self._add(ids)
                self._jobs.add(id_)
        for name in names:
            if name not in self._parts:
                for ids in _part_ids(self._dataset, name):
                    self._add(ids)
                self._parts.add(name)

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts of single items that were read."""
        return frozenset(self._parts)

    def _add(self, ids: Collection[str]) -> None:
        self._index.add((id_, _NO_DIGEST, 0) for id_ in ids)

    def _clear(self) -> None:
        self._index.close()
        self._index = IdIndex()
        self._jobs.clear()
        self._parts.clear()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._index

    def __len__(self) -> int:
        return len(self._index)

    def close(self) -> None:
        self._index.close()


def arrivals_name(number: int) -> str:
    """Return the name of the part with a number; names sort as they were written."""
    return f"{ITEMS_PREFIX}{number:0{_DIGITS}d}"


def arrivals_number(name: str) -> int:
    """Return the number in the name of a part of single items; 0 if somebody named it."""
    number = name.removeprefix(ITEMS_PREFIX)
    return int(number) if number.isdecimal() else 0


def items_parts(dataset: Dataset) -> list[str]:
    """Return the names of the parts of items that came singly, sorted."""
    names = (n for n in dataset.fs.list(PARTS_FOLDER) if n.startswith(ITEMS_PREFIX))
    return [name.removesuffix(".parquet") for name in names]


def has_arrivals(dataset: Dataset) -> bool:
    """Return whether any part holds single items: earlier versions wrote an empty one for a job.

    Raises:
        DatasetError: A part is damaged.
    """
    return any(any(_part_ids(dataset, name)) for name in items_parts(dataset))


def catch_up(dataset: Dataset, known: KnownIds) -> set[str]:
    """Read what is new, and finish the parts whose worker died before it wrote their record.

    Returns the names of the records whose part was moved away.

    Raises:
        DatasetError: A plan or a part is damaged, or another dataset's.
        StorageError: The disk did not answer; trying again is safe.
    """
    # Records first: each follows its part, so one whose part is not listed then has lost it.
    recorded = {name for name in record_names(dataset.fs) if name.startswith(ITEMS_PREFIX)}
    known.refresh()
    for name in sorted(known.parts - recorded):
        complete(dataset, name)  # safe beside its worker, which would write the same
    return recorded - known.parts


def commit_arrivals(
    dataset: Dataset, known: KnownIds, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit | None:
    """Write items that came singly as one part; None if the dataset has them all.

    Items that another worker wrote meanwhile are left out.

    Raises:
        DatasetError: The vectors are not what the dataset holds, or a part is damaged.
        StorageError: The disk refused a write; committing again is safe.
    """
    while True:
        lost = catch_up(dataset, known)
        fresh = without_known(embedded, known)
        if not fresh.items and not fresh.failures:
            return None
        name = _next_name(known.parts | lost)
        done = commit_first(dataset, name, fresh, card=card, worker=worker)
        if done is not None:
            for name in lost:
                withdraw(dataset, name)
            return done


def without_known(embedded: Embedded, known: KnownIds) -> Embedded:
    """Return what is not in the dataset yet, each id once."""
    seen: set[str] = set()
    rows = [n for n, item in enumerate(embedded.items) if _is_new(item.id, seen, known)]
    failures: list[Failure] = [f for f in embedded.failures if _is_new(f.item.id, seen, known)]
    return Embedded(
        items=[embedded.items[n] for n in rows],
        vectors=embedded.vectors[rows],
        sizes=None if embedded.sizes is None else [embedded.sizes[n] for n in rows],
        failures=failures,
        cut=embedded.cut,
    )


def _part_ids(dataset: Dataset, name: str) -> Iterator[list[str]]:
    """Yield the ids of a part, its failures last; none if it was moved away since it was listed."""
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return
    with file:
        footer = read_footer(file, path=part_path(name))
        try:
            if footer.vectors:
                for rows in read_row_groups(open_parquet(file), ["id"]):
                    yield rows["id"].to_pylist()
        except PARQUET_ERRORS as error:
            path = f"{dataset.root}/{part_path(name)}"
            raise parquet_error(error, path, remedy=way_out(name)) from error
    yield [failure.item.id for failure in footer.failures]


def _next_name(names: Collection[str]) -> str:
    return arrivals_name(max(map(arrivals_number, names), default=0) + 1)


def _is_new(id_: str, seen: set[str], known: KnownIds) -> bool:
    if id_ in seen or id_ in known:
        return False
    seen.add(id_)
    return True

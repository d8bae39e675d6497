"""The commit of single items, which no plan has, and the ids that a stream has.

The parts of single items are numbered; a worker takes a number by creating its part. Before that
it has read all parts with lower numbers, so it knows every earlier id. Hence no id is written
twice, however many workers have it: a worker that loses a number reads the winner's part and
tries the next number.

The record of a part that was moved away stays, and keeps the number taken: a worker that has read
the part notices its absence. The commit of the next part makes the record empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from clipfleet.items import Item
from clipfleet.messages import Shard, shard_name
from clipfleet.model_card import ModelCard
from clipfleet.storage.commit.commit import commit_first, complete, is_committed, withdraw
from clipfleet.storage.commit.record import Commit
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.dataset import PARTS_FOLDER, Dataset, record_names
from clipfleet.storage.format.id_index import IdIndex, content_digest
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    item_value,
    part_path,
    part_remedy,
    read_footer,
    value_column,
)
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.format.stream_state import write_last_part
from clipfleet.storage.plan.jobs import (
    is_shard_number,
    job_ids,
    numbered_shard,
    read_job,
    shard_number,
    shard_of,
)
from clipfleet.storage.plan.reader import read_job_rows

_DIGITS = 10


class KnownIds:
    """The ids of a stream at the last `refresh`, each with digests of all contents it ever had.

    They are on disk, so memory stays flat. An id's origin is the number of the newest retry's shard
    that has it; without a retry, the position of its part in `_names`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._index = IdIndex()
        self._jobs: set[str] = set()
        self._parts: set[str] = set()
        self._names: list[str] = []
        self._committed: set[str] = set()  # shards of retries

    def refresh(self) -> None:
        """Read the parts of single items and the plans of retries that are new.

        An item in a retry stays known if its first part is gone. If a part is gone that was read
        before, everything is read again: its ids may be embedded again. So is it after the
        temporary folder was full.

        Raises:
            DatasetError: A plan or a part is damaged.
            StorageError: The disk did not answer, or the temporary folder is full.
        """
        names = single_items_parts(self._dataset)
        if self._index.damaged or not self._parts.issubset(names):
            self._clear()
        for id_ in job_ids(self._dataset):
            if id_ not in self._jobs:
                rows = read_job_rows(self._dataset, read_job(self._dataset, id_))
                for index, (ids, values) in enumerate(rows):
                    self._add(ids, values, shard_number(id_, index))
                self._jobs.add(id_)
        for name in names:
            if name not in self._parts:
                for ids, values in _part_rows(self._dataset, name):
                    self._add(ids, values, len(self._names))
                self._names.append(name)
                self._parts.add(name)

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts of single items that were read."""
        return frozenset(self._parts)

    def has(self, item: Item) -> bool:
        """Return whether an item's id has, or had, the item's content."""
        found = self._index.get(item.id)
        return found is not None and content_digest(item_value(item)) in found[0]

    def has_other(self, item: Item) -> bool:
        """Return whether an item's id is known, and never had the item's content."""
        return item.id in self and not self.has(item)

    def part_of(self, id_: str) -> str | None:
        """Return the name of the newest part that has an id, or will have it; None if unknown."""
        found = self._index.get(id_)
        if found is None:
            return None
        if is_shard_number(found[1]):
            return shard_name(*numbered_shard(found[1]))
        return self._names[found[1]]

    def open_shards(self, ids: Iterable[str]) -> list[Shard]:
        """Return the shards of retries that have some of these ids and are not committed.

        Raises:
            DatasetError: A job's record is damaged.
            StorageError: The disk did not answer.
        """
        found = (self._index.get(id_) for id_ in ids)
        numbers = {number for _, number in filter(None, found) if is_shard_number(number)}
        shards = []
        for job, index in map(numbered_shard, sorted(numbers)):
            name = shard_name(job, index)
            if name in self._committed:
                continue
            if is_committed(self._dataset, name):
                self._committed.add(name)
            else:
                shards.append(shard_of(read_job(self._dataset, job), index))
        return shards

    def _add(self, ids: Collection[str], values: Collection[str], origin: int) -> None:
        rows = zip(ids, values, strict=True)
        self._index.join((id_, content_digest(value), origin) for id_, value in rows)

    def _clear(self) -> None:
        self._index.close()
        self._index = IdIndex()
        self._jobs.clear()
        self._parts.clear()
        self._names.clear()
        self._committed.clear()

    def __contains__(self, id_: object) -> bool:
        return id_ in self._index

    def __len__(self) -> int:
        return len(self._index)

    def close(self) -> None:
        self._index.close()


def single_items_part(number: int) -> str:
    """Return the name of the part with a number; the names sort by their numbers."""
    return f"{ITEMS_PREFIX}{number:0{_DIGITS}d}"


def single_items_part_number(name: str) -> int:
    """Return the number in the name of a part of single items; 0 if the name has none."""
    number = name.removeprefix(ITEMS_PREFIX)
    return int(number) if number.isdecimal() else 0


def single_items_parts(dataset: Dataset) -> list[str]:
    """Return the sorted names of the parts of single items."""
    names = (n for n in dataset.fs.list(PARTS_FOLDER) if n.startswith(ITEMS_PREFIX))
    return [name.removesuffix(".parquet") for name in names]


def has_single_items(dataset: Dataset) -> bool:
    """Return whether any part holds single items. (Earlier versions wrote parts without items.)

    Raises:
        DatasetError: A part is damaged.
    """
    return any(ids for name in single_items_parts(dataset) for ids, _ in _part_rows(dataset, name))


def catch_up(dataset: Dataset, known: KnownIds) -> set[str]:
    """Read what is new, and finish the parts whose workers died before writing their records.

    Returns the names of the records whose parts were moved away.

    Raises:
        DatasetError: A plan or a part is damaged, or is another dataset's.
        StorageError: The disk did not answer; trying again is safe.
    """
    # Records first: each follows its part, so a record without a listed part has lost it.
    recorded = {name for name in record_names(dataset.fs) if name.startswith(ITEMS_PREFIX)}
    known.refresh()
    for name in sorted(known.parts - recorded):
        complete(dataset, name)  # safe while its worker runs: both write the same files
    return recorded - known.parts


def commit_single_items(
    dataset: Dataset, known: KnownIds, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit | None:
    """Write single items as one part; return None if the dataset has all of them.

    Items that another worker wrote meanwhile are left out.

    Raises:
        DatasetError: The vectors do not fit the dataset, or a part is damaged.
        StorageError: The disk refused a write; committing again is safe.
    """
    while True:
        lost = catch_up(dataset, known)
        new = without_known(embedded, known)
        if not new.items and not new.failures:
            return None
        name = _next_name(known.parts | lost)
        done = commit_first(dataset, name, new, card=card, worker=worker)
        if done is not None:
            for lost_name in lost:
                withdraw(dataset, lost_name)
            write_last_part(dataset, single_items_part_number(name))
            return done


def without_known(embedded: Embedded, known: KnownIds) -> Embedded:
    """Return the items that the dataset does not have, each id once."""
    seen: set[str] = set()
    rows = [n for n, item in enumerate(embedded.items) if _is_new(item.id, seen, known)]
    failures = [f for f in embedded.failures if _is_new(f.item.id, seen, known)]
    return Embedded(
        items=[embedded.items[n] for n in rows],
        vectors=embedded.vectors[rows],
        sizes=None if embedded.sizes is None else [embedded.sizes[n] for n in rows],
        failures=failures,
        cut=embedded.cut,
        transparent=embedded.transparent,
        without_end=embedded.without_end,
    )


def _part_rows(dataset: Dataset, name: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield a part's ids and uris or texts, its failures last; nothing if the part is gone."""
    column = value_column(dataset.info.tower)
    with open_if_exists(dataset.fs, part_path(name)) as file:
        if file is None:
            return
        footer = read_footer(file, path=part_path(name))
        try:
            if footer.vectors:
                for rows in read_row_groups(open_parquet(file), ["id", column]):
                    yield rows["id"].to_pylist(), rows[column].to_pylist()
        except PARQUET_ERRORS as error:
            path = f"{dataset.root}/{part_path(name)}"
            raise parquet_error(error, path, remedy=part_remedy(name)) from error
    items = [failure.item for failure in footer.failures]
    yield [item.id for item in items], [item_value(item) for item in items]


def _next_name(names: Collection[str]) -> str:
    return single_items_part(max(map(single_items_part_number, names), default=0) + 1)


def _is_new(id_: str, seen: set[str], known: KnownIds) -> bool:
    if id_ in seen or id_ in known:
        return False
    seen.add(id_)
    return True

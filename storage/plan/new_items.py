"""The items of a source that a dataset does not have, and the ids that contradict it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from clipfleet.architectures import Tower
from clipfleet.errors import DuplicateIdError, SourceError
from clipfleet.items import Item
from clipfleet.messages import shard_name
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.id_index import ScratchDatabase
from clipfleet.storage.format.parts import item_value, value_column
from clipfleet.storage.plan.digests import DigestRuns, PlannedIds, content_digests, id_digests
from clipfleet.storage.plan.jobs import jobs, numbered_shard, shard_number
from clipfleet.storage.plan.reader import read_job_rows
from clipfleet.storage.sources.base import Source
from clipfleet.storage.tables.columns import show

SHOWN = 5  # duplicates in a message

_BATCH_ITEMS = 4096


class ChangedItems:
    """Items with other content than their ids have, each with its shard and position; on disk."""

    def __init__(self) -> None:
        self._database = ScratchDatabase(
            "changed (id TEXT PRIMARY KEY, value TEXT, fault TEXT, shard INTEGER, position INTEGER)"
        )

    def add(self, item: Item, *, shard: int, position: int) -> int:
        """Add an item, or change nothing if its id is there; return the position of the first.

        `shard` is the number of the newest shard with the id, `position` that in the source.
        """
        row = (item.id, item_value(item), item.fault, shard, position)
        self._database.write("INSERT OR IGNORE INTO changed VALUES (?, ?, ?, ?, ?)", [row])
        query = "SELECT position FROM changed WHERE id = ?"
        ((first,),) = self._database.read(query, (item.id,))
        return int(first)

    def has(self, id_: str) -> bool:
        """Return whether an item with this id was added."""
        return bool(self._database.read("SELECT 1 FROM changed WHERE id = ?", (id_,)))

    def first(self, limit: int) -> list[tuple[str, str, int]]:
        """Return the ids, contents and shards of the first few items, in the source's order."""
        query = "SELECT id, value, shard FROM changed ORDER BY position LIMIT ?"
        return self._database.read(query, (limit,))

    def by_shard(self, tower: Tower) -> Iterator[tuple[str, list[Item]]]:
        """Yield the names of shards, oldest first, each with its changed items."""
        rows = self._database.stream(
            "SELECT shard, id, value, fault FROM changed ORDER BY shard, id"
        )
        column = value_column(tower)
        for number, group in itertools.groupby(rows, key=lambda row: int(row[0])):
            name = shard_name(*numbered_shard(number))
            yield name, [Item(id=i, fault=fault, **{column: v}) for _, i, v, fault in group]

    def __len__(self) -> int:
        ((count,),) = self._database.read("SELECT count(*) FROM changed")
        return int(count)

    def close(self) -> None:
        self._database.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Planning:
    """How far a plan is: the known rows read, of earlier jobs, and the rows read of the source."""

    known: int = 0
    rows: int = 0


OnPlanning = Callable[[Planning], None]


def say_nothing(_: Planning) -> None:
    """Show no progress."""


def new_items(
    dataset: Dataset,
    source: Source,
    changed: ChangedItems | None = None,
    *,
    on_planning: OnPlanning = say_nothing,
) -> Generator[Item, None, None]:
    """Yield the source's items whose ids are in no plan of the dataset.

    Digests of the ids are on disk, so memory stays flat. Items whose ids have another uri or text
    in the newest job with them go into `changed`. `on_planning` is called after some thousand rows.

    Raises:
        DatasetError: A plan is damaged.
        DuplicateIdError: Two items have one id; or, without `changed`, the dataset has an id with
            another uri or text. It is raised at the end of the source, or after the first few of
            such items.
    """
    known = _known_ids(dataset, on_planning)
    with closing(DigestRuns()) as new, closing(ChangedItems()) as own:
        most = SHOWN if changed is None else None
        to = own if changed is None else changed
        yield from _filter_new(source, known, new, to, most=most, on_planning=on_planning)
        if len(own):
            raise _changed_error(dataset, own.first(SHOWN))


def _known_ids(dataset: Dataset, on_planning: OnPlanning) -> PlannedIds:
    """Return the ids of all plans, each with its newest content; origins are shards' numbers."""
    rows = 0
    with closing(DigestRuns()) as runs:
        for job in reversed(jobs(dataset)):  # an id's first row counts
            for number, (ids, values) in enumerate(read_job_rows(dataset, job)):
                origins = np.full(len(ids), shard_number(job.id, number), np.uint64)
                runs.add(id_digests(ids), origins, content_digests(values))
                rows += len(ids)
                on_planning(Planning(known=rows))
        return PlannedIds(runs)


def _filter_new(
    source: Source,
    known: PlannedIds,
    new: DigestRuns,
    changed: ChangedItems,
    *,
    most: int | None,
    on_planning: OnPlanning,
) -> Iterator[Item]:
    """Yield the new items; stop early after `most` changed ones.

    The origins in `new` are positions in the source, from 1.
    """
    repeated: list[tuple[int, int]] = []  # positions, from 1
    position = 0
    for batch in _batched(source):
        first, position = position + 1, position + len(batch)
        digests = id_digests(item.id for item in batch)
        found = known.find(digests)
        is_new = found < 0
        positions = np.arange(first, position + 1, dtype=np.uint64)
        new.add(digests[is_new], positions[is_new])
        if is_new.all():
            yield from batch
        else:
            contents = content_digests(item_value(item) for item in batch)
            is_changed = ~is_new & (known.contents(found) != contents)
            for n in np.flatnonzero(is_new | is_changed).tolist():
                if is_new[n]:
                    yield batch[n]
                    continue
                shard = known.origin(found[n])
                earlier = changed.add(batch[n], shard=shard, position=first + n)
                if earlier < first + n:
                    repeated.append((earlier, first + n))
        on_planning(Planning(known=len(known), rows=position))
        if len(repeated) + new.doubles >= SHOWN or (most is not None and len(changed) >= most):
            break
    repeated += new.twice(SHOWN)
    if repeated:
        raise _repeated_error(source, sorted(repeated, key=lambda pair: pair[1])[:SHOWN])


def _repeated_error(source: Source, repeated: list[tuple[int, int]]) -> DuplicateIdError:
    ids = _ids_at(source, {second for _, second in repeated})
    shown = "; ".join(
        f"{ids[second]!r} at {source.location(first)} and at {source.location(second)}"
        for first, second in repeated
    )
    return DuplicateIdError(
        f"{source.description} gives an id twice: {shown}. Ids must be unique; nothing was planned"
    )


def _ids_at(source: Source, positions: set[int]) -> dict[int, str]:
    """Return the ids of the items at some positions, from 1."""
    items = itertools.islice(source, max(positions))
    found = {n: item.id for n, item in enumerate(items, start=1) if n in positions}
    if len(found) < len(positions):
        raise SourceError(f"{source.description} changed while it was planned: run again")
    return found


def _changed_error(dataset: Dataset, changed: list[tuple[str, str, int]]) -> DuplicateIdError:
    column = value_column(dataset.info.tower)
    shown = "; ".join(
        f"{id_!r} (planned in job {numbered_shard(shard)[0]}), now with {column} {show(value)}"
        for id_, value, shard in changed
    )
    return DuplicateIdError(
        f"dataset {dataset.root} has these ids with another {column} already: {shown}. Refresh the "
        "dataset (--refresh) to take the newer content of ids without a vector, and by "
        "--on-conflict of others; if their folder was moved, name the old one (--moved-from); or "
        "give them other ids. Nothing was planned"
    )


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, _BATCH_ITEMS)):
        yield batch

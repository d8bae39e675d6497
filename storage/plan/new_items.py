"""The items of a source that a dataset does not have, and the ids that contradict it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from clipfleet.architectures import Tower
from clipfleet.errors import DuplicateIdError
from clipfleet.items import Item
from clipfleet.messages import shard_name
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.id_index import IdIndex, ScratchDatabase, content_digest
from clipfleet.storage.format.parts import item_value, value_column
from clipfleet.storage.plan.reader import jobs, numbered_shard, read_job_rows, shard_number
from clipfleet.storage.sources.base import Source
from clipfleet.storage.sources.columns import show

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


def new_items(
    dataset: Dataset, source: Source, changed: ChangedItems | None = None
) -> Generator[Item, None, None]:
    """Yield the source's items whose ids are in no plan of the dataset.

    The ids are on disk, so memory stays flat. Items whose ids have another uri or text in the
    newest job with them go into `changed`.

    Raises:
        DatasetError: A plan is damaged.
        DuplicateIdError: Two items have one id; or, without `changed`, the dataset has an id with
            another uri or text. It is raised at the end of the source, or after the first few of
            such items.
    """
    with closing(IdIndex()) as index, closing(ChangedItems()) as own:
        for job in reversed(jobs(dataset)):  # the index keeps an id's first row
            for number, (ids, values) in enumerate(read_job_rows(dataset, job)):
                origin = -shard_number(job.id, number)
                rows = zip(ids, values, strict=True)
                index.add((id_, content_digest(value), origin) for id_, value in rows)
        most = SHOWN if changed is None else None
        yield from _filter_new(source, index, own if changed is None else changed, most=most)
        if len(own):
            raise _changed_error(dataset, own.first(SHOWN))


def _filter_new(
    source: Source, index: IdIndex, changed: ChangedItems, *, most: int | None
) -> Iterator[Item]:
    """Yield the new items; stop early after `most` changed ones.

    Origins in `index`: a position in the source, from 1, or minus the number of a shard.
    """
    repeated: list[tuple[Item, int, int]] = []
    position = 0
    for batch in _batched(source):
        first, position = position + 1, position + len(batch)
        added = index.add(
            (item.id, content_digest(item_value(item)), n) for n, item in enumerate(batch, first)
        )
        if added == len(batch):
            yield from batch
            continue
        for n, item in enumerate(batch, first):
            value, origin = index.get(item.id) or (b"", n)
            if origin < 0 and value != content_digest(item_value(item)):
                origin = changed.add(item, shard=-origin, position=n)
            elif origin == n:
                yield item
            if 0 < origin < n:
                repeated.append((item, origin, n))
        if len(repeated) >= SHOWN or (most is not None and len(changed) >= most):
            break
    if repeated:
        raise _repeated_error(source, repeated[:SHOWN])


def _repeated_error(source: Source, repeated: list[tuple[Item, int, int]]) -> DuplicateIdError:
    shown = "; ".join(
        f"{item.id!r} at {source.location(first)} and at {source.location(second)}"
        for item, first, second in repeated
    )
    return DuplicateIdError(
        f"{source.description} gives an id twice: {shown}. Ids must be unique; nothing was planned"
    )


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

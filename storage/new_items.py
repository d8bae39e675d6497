"""What a source brings that a dataset does not have yet, and what contradicts it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from clipfleet.errors import DatasetError, DuplicateIdError
from clipfleet.jobs import Item
from storage.columns import show
from storage.dataset import Dataset
from storage.id_index import IdIndex
from storage.known_ids import ARRIVED, KnownIds, digest, open_arrived
from storage.parts import item_value, value_column
from storage.sources import Source

SHOWN = 5  # duplicates that an error names

_BATCH_ITEMS = 4096


def new_items(dataset: Dataset, source: Source, known: KnownIds) -> Iterator[Item]:
    """Yield the source's items whose ids the dataset does not have, and add them to `known`.

    Raises:
        DuplicateIdError: Two items share an id, or the dataset has it for another uri or
            text. It comes when the source is exhausted, or the first few are found.
    """
    known.refresh()
    yield from _unknown(dataset, source, known.index)


def _unknown(dataset: Dataset, source: Source, index: IdIndex) -> Iterator[Item]:
    """Positions in the source count from 1; what `index` has before has origins up to 0."""
    twice: list[tuple[Item, int, int]] = []
    other: list[tuple[Item, int]] = []
    position = 0
    for batch in _batched(source):
        first, position = position + 1, position + len(batch)
        added = index.add(
            (item.id, digest(item_value(item)), n) for n, item in enumerate(batch, first)
        )
        if added == len(batch):
            yield from batch
            continue
        for n, item in enumerate(batch, first):
            value, origin = index.get(item.id) or (b"", n)
            if origin == n:
                yield item
            elif origin > ARRIVED:
                twice.append((item, origin, n))
            elif value != digest(item_value(item)):
                other.append((item, origin))
        if len(twice) + len(other) >= SHOWN:
            break
    if twice:
        raise _twice_error(source, twice[:SHOWN])
    if other:
        raise _other_error(dataset, other[:SHOWN])


def refuse_arrived(dataset: Dataset, known: KnownIds, name: str) -> None:
    """Refuse new items of a source, which `known` has, that came singly in a part meanwhile.

    Raises:
        DatasetError: The part has one of them: it would be embedded twice. Or it is damaged.
    """
    with open_arrived(dataset, name) as (_, rows):
        for id_ in (id_ for ids, _ in rows for id_ in ids):
            found = known.index.get(id_)
            if found is not None and found[1] > ARRIVED:
                raise DatasetError(
                    f"item {id_!r}, queued singly, was written to {dataset.root} while the "
                    "source was read: nothing was planned, run again"
                )
    known.note(name)


def _twice_error(source: Source, twice: list[tuple[Item, int, int]]) -> DuplicateIdError:
    shown = "; ".join(
        f"{item.id!r} at {source.place(first)} and at {source.place(second)}"
        for item, first, second in twice
    )
    return DuplicateIdError(
        f"{source.description} gives an id twice: {shown}. Ids must be unique; nothing was planned"
    )


def _other_error(dataset: Dataset, other: list[tuple[Item, int]]) -> DuplicateIdError:
    column = value_column(dataset.info.tower)
    shown = "; ".join(
        f"{item.id!r} ({_origin(origin)}), now with {column} {show(item_value(item))}"
        for item, origin in other
    )
    return DuplicateIdError(
        f"dataset {dataset.root} has these ids with another {column} already: {shown}. Give them "
        "other ids, or choose another output folder; nothing was planned"
    )


def _origin(origin: int) -> str:
    return "queued singly" if origin == ARRIVED else f"planned in job {-origin:05d}"


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, _BATCH_ITEMS)):
        yield batch

"""The items of a source that a dataset does not have, and the ids that contradict it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from clipfleet.errors import DuplicateIdError
from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.id_index import IdIndex, content_digest
from clipfleet.storage.format.parts import item_value, value_column
from clipfleet.storage.plan.reader import jobs, read_job_rows
from clipfleet.storage.sources.base import Source
from clipfleet.storage.sources.columns import show

SHOWN = 5  # duplicates in a message

_BATCH_ITEMS = 4096


def new_items(dataset: Dataset, source: Source) -> Generator[Item, None, None]:
    """Yield the source's items whose ids are in no plan of the dataset.

    The ids are on disk, so memory stays flat.

    Raises:
        DatasetError: A plan is damaged.
        DuplicateIdError: Two items have one id, or the dataset has an id with another uri or
            text. It is raised at the end of the source, or after the first few of such items.
    """
    with closing(IdIndex()) as index:
        for job in jobs(dataset):
            for ids, values in read_job_rows(dataset, job):
                rows = zip(ids, values, strict=True)
                index.add((id_, content_digest(value), -int(job.id)) for id_, value in rows)
        yield from _filter_new(dataset, source, index)


def _filter_new(dataset: Dataset, source: Source, index: IdIndex) -> Iterator[Item]:
    """Origins in `index`: a position in the source, from 1, or minus the number of a job."""
    repeated: list[tuple[Item, int, int]] = []
    changed: list[tuple[Item, int]] = []
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
            if origin == n:
                yield item
            elif origin > 0:
                repeated.append((item, origin, n))
            elif value != content_digest(item_value(item)):
                changed.append((item, origin))
        if len(repeated) + len(changed) >= SHOWN:
            break
    if repeated:
        raise _repeated_error(source, repeated[:SHOWN])
    if changed:
        raise _changed_error(dataset, changed[:SHOWN])


def _repeated_error(source: Source, repeated: list[tuple[Item, int, int]]) -> DuplicateIdError:
    shown = "; ".join(
        f"{item.id!r} at {source.location(first)} and at {source.location(second)}"
        for item, first, second in repeated
    )
    return DuplicateIdError(
        f"{source.description} gives an id twice: {shown}. Ids must be unique; nothing was planned"
    )


def _changed_error(dataset: Dataset, changed: list[tuple[Item, int]]) -> DuplicateIdError:
    column = value_column(dataset.info.tower)
    shown = "; ".join(
        f"{item.id!r} (planned in job {-origin:05d}), now with {column} {show(item_value(item))}"
        for item, origin in changed
    )
    return DuplicateIdError(
        f"dataset {dataset.root} has these ids with another {column} already: {shown}. Give them "
        "other ids, or choose another output folder; nothing was planned"
    )


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, _BATCH_ITEMS)):
        yield batch

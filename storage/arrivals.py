"""Arrivals: items that came singly, not by a plan, and the parts that they are written to.

These parts are numbered, and a number is taken by writing its part. Whoever has read all
parts below a number and then wins it knows every id that came before, so no id is written
twice, however many workers hold it; who loses reads the winner's part and tries the next.

A part that somebody moved away leaves its record, which keeps its number from being taken
again, before whoever had read that part could notice: the next part withdraws it.

Jobs take numbers too (storage.fences), so planned ids are among those that came before.
"""

from __future__ import annotations

from collections.abc import Collection

from clipfleet.card import ModelCard
from storage.dataset import Dataset
from storage.known_ids import KnownIds, items_parts
from storage.manifest import Commit, commit_first, complete, withdraw
from storage.parts import ITEMS_PREFIX, Embedded, Failure
from storage.records import record_names

_DIGITS = 10


def arrivals_name(number: int) -> str:
    """Return the name of the part with a number; names sort as they were written."""
    return f"{ITEMS_PREFIX}{number:0{_DIGITS}d}"


def arrivals_number(name: str) -> int:
    """Return the number in the name of a part of single items; 0 if somebody named it."""
    number = name.removeprefix(ITEMS_PREFIX)
    return int(number) if number.isdecimal() else 0


def catch_up(dataset: Dataset, known: KnownIds) -> set[str]:
    """Read what is new, and finish the parts whose worker died before it wrote their record.

    Returns the names of the records whose part was moved away.

    Raises:
        DatasetError: A plan or a part is damaged, or another dataset's.
        StorageError: The disk did not answer; trying again is safe.
    """
    # Records first: each follows its part, so one whose part is not listed then has lost it.
    recorded = _recorded(dataset)
    known.refresh()
    for name in sorted(known.parts - recorded):
        complete(dataset, name)  # safe beside its worker, which would write the same
    return recorded - known.parts


def look_ahead(dataset: Dataset, known: KnownIds) -> tuple[list[str], set[str], str]:
    """Return the parts that `known` has not read, the lost records, and the name of the next part.

    The parts are sorted, and finished as in `catch_up`, but not read: that is left to who wants
    the name. The records are `catch_up`'s.

    Raises:
        DatasetError: A part is damaged, or another dataset's.
        StorageError: The disk did not answer; trying again is safe.
    """
    recorded = _recorded(dataset)  # first, as above
    parts = set(items_parts(dataset))
    for name in sorted(parts - recorded):
        complete(dataset, name)
    name = _next_name(parts | recorded | known.parts)
    return sorted(parts - known.parts), recorded - parts, name


def commit_arrivals(
    dataset: Dataset, known: KnownIds, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit | None:
    """Write items that came singly as one part; None if the dataset has them all.

    Items that are planned, or written by another worker meanwhile, are left out.

    Raises:
        DatasetMismatchError: `card` is not the dataset's model.
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


def _recorded(dataset: Dataset) -> set[str]:
    return {name for name in record_names(dataset.fs) if name.startswith(ITEMS_PREFIX)}


def _next_name(names: Collection[str]) -> str:
    return arrivals_name(max(map(arrivals_number, names), default=0) + 1)


def _is_new(id_: str, seen: set[str], known: KnownIds) -> bool:
    if id_ in seen or id_ in known:
        return False
    seen.add(id_)
    return True

"""Removing: ids lose their vectors, and keep an error row that says so, a tombstone.

A removal is a retry that embeds nothing: its plan has the ids, and its parts have their tombstones.
So each reader that honours retries honours removals, and a plain read of the parts finds no vector.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from clipfleet.error_codes import TOMBSTONES
from clipfleet.errors import UsageError
from clipfleet.storage.commit.manifest import finish, missing_shards
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.part_items import PartItems
from clipfleet.storage.plan.jobs import Tombstone
from clipfleet.storage.plan.planner import PlannedMeanwhileError, Row, plan_rows
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.plan.standing import Choose, standing_items
from clipfleet.storage.stores.file_stats import file_of, file_stats

SHOWN = 5  # ids in a message

_ATTEMPTS = 10  # the workers of a stream plan jobs too


@dataclass(kw_only=True, slots=True)
class Removal:
    """The result of `remove`; `job` is None if nothing was left to remove, or of a dry run.

    `removed_before` counts the named ids that had been removed. `waiting` counts the named ids that
    stay, because their shards are not done; `first_waiting` are some of them. `unchecked` counts
    the items whose uris name no files of this machine or of an object store.
    """

    dataset: str
    job: str | None = None
    removed: int = 0
    removed_before: int = 0
    waiting: int = 0
    first_waiting: list[str] = field(default_factory=list)
    unchecked: int = 0
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        if self.dry_run:
            done = f"{self.removed:,} ids would be removed"
        elif self.job:
            done = f"removed {self.removed:,} ids, as job {self.job}"
        else:
            done = "removed nothing"
        lines = [f"{self.dataset}: {done}"]
        if self.removed_before:
            lines.append(f"  {self.removed_before:,} of the ids had been removed before")
        if self.waiting:
            shown = ", ".join(map(repr, self.first_waiting))
            lines.append(
                f"  {self.waiting:,} ids stay, their shards are not done, such as {shown}: run "
                "again when these are done"
            )
        if self.unchecked:
            lines.append(
                f"  {self.unchecked:,} items are no files of this machine or of an object store: "
                "not looked for"
            )
        return lines


def remove_ids(
    dataset: Dataset, ids: Collection[str], *, shard_size: int, dry_run: bool = False
) -> Removal:
    """Remove these ids.

    Raises:
        UsageError: The dataset does not have an id; nothing is removed.
        DatasetError: A plan or a part is damaged, or other processes plan all the time.
        StorageError: The disk did not answer; removing again is safe.
    """
    wanted = frozenset(ids)

    def choose(_: str, __: Sequence[str], part: PartItems) -> list[int]:
        return [n for n, item in enumerate(part.items) if item.id in wanted]

    def rows(removal: Removal) -> Iterator[Row]:
        seen: set[str] = set()
        yield from _rows(dataset, choose, removal, seen)
        waiting = _open_ids(dataset, wanted - seen)
        removal.waiting, removal.first_waiting = len(waiting), sorted(waiting)[:SHOWN]
        unknown = wanted - seen - waiting
        if unknown:
            raise _unknown_error(dataset, unknown)

    return _remove(dataset, "removed", rows, shard_size=shard_size, dry_run=dry_run)


def remove_missing(dataset: Dataset, *, shard_size: int, dry_run: bool = False) -> Removal:
    """Remove the ids whose files do not exist any more; of a member, the file that it is in.

    Raises:
        UsageError: The items are texts; or no file exists, or whether one does cannot be told:
            nothing is removed.
        DatasetError: A plan or a part is damaged, or other processes plan all the time.
        StorageError: The disk did not answer; removing again is safe.
    """
    if dataset.info.tower == "txt":
        raise UsageError(f"dataset {dataset.root} is of texts, which are no files: name the ids")

    def rows(removal: Removal) -> Iterator[Row]:
        found = 0  # files

        def choose(_: str, uris: Sequence[str], __: PartItems) -> list[int]:
            nonlocal found
            files = {n: path for n, uri in enumerate(uris) if (path := file_of(uri))}
            removal.unchecked += len(uris) - len(files)
            stats = file_stats(list(files.values()))
            gone = [n for n, stat in zip(files, stats, strict=True) if stat is None]
            found += len(files) - len(gone)
            return gone

        yield from _rows(dataset, choose, removal)
        if removal.removed and not found:
            raise UsageError(
                f"no file of dataset {dataset.root} exists here: mount their disk, or run the "
                "command where they are; name the ids if they were all deleted"
            )

    return _remove(dataset, "gone", rows, shard_size=shard_size, dry_run=dry_run)


def _remove(
    dataset: Dataset,
    tombstone: Tombstone,
    rows: Callable[[Removal], Iterator[Row]],
    *,
    shard_size: int,
    dry_run: bool,
) -> Removal:
    if not dry_run:
        finish(dataset)
    for attempt in range(1, _ATTEMPTS + 1):
        removal = Removal(dataset=dataset.root, dry_run=dry_run)
        if dry_run:
            for _ in rows(removal):
                pass
            return removal
        with suppress(*([PlannedMeanwhileError] if attempt < _ATTEMPTS else [])):
            job = plan_rows(
                dataset, rows(removal), "removal", shard_size, retry=True, removes=tombstone
            )
            if job is not None:
                finish(dataset)
                removal.job = job.id
            return removal
    raise AssertionError("the last attempt neither planned nor raised")


def _rows(
    dataset: Dataset, choose: Choose, removal: Removal, seen: set[str] | None = None
) -> Iterator[Row]:
    """Yield the rows of the plan, and count them; `seen` gets all chosen ids.

    They are read after the job's number was chosen.
    """
    for item, standing in standing_items(dataset, choose):
        if seen is not None:
            seen.add(item.id)
        if standing.failure is not None and standing.failure.error in TOMBSTONES:
            removal.removed_before += 1
        else:
            removal.removed += 1
            yield standing.row(item, meanwhile="it is being removed")


def _open_ids(dataset: Dataset, ids: Collection[str]) -> set[str]:
    """Return those of the ids that are planned in shards without a part."""
    found: set[str] = set()
    with PlanReader(dataset) as plan:
        for shard in missing_shards(dataset) if ids else ():
            planned, _ = plan.read_rows(plan.job(shard), shard.index)
            found.update(set(planned).intersection(ids))
    return found


def _unknown_error(dataset: Dataset, ids: Collection[str]) -> UsageError:
    shown = ", ".join(map(repr, sorted(ids)[:SHOWN]))
    more = ", …" if len(ids) > SHOWN else ""
    return UsageError(
        f"dataset {dataset.root} does not have {len(ids):,} of the ids: {shown}{more}. Correct "
        "them, or leave them out; nothing was removed"
    )

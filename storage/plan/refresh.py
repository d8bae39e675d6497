"""A refresh: a source is planned again, with newer content of ids that the dataset has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

from clipfleet.errors import DuplicateIdError, UsageError
from clipfleet.settings.datasets import OnConflict
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parts import value_column
from clipfleet.storage.plan.jobs import Job, jobs
from clipfleet.storage.plan.moves import Move, Moves, is_below, read_moves, write_moves
from clipfleet.storage.plan.new_items import SHOWN, ChangedItems, OnPlanning, new_items, say_nothing
from clipfleet.storage.plan.overwritten import OverwrittenFiles
from clipfleet.storage.plan.planner import Row, item_row, plan_rows
from clipfleet.storage.plan.reader import read_job_rows
from clipfleet.storage.plan.standing import standing_of
from clipfleet.storage.sources.base import Source


@dataclass(kw_only=True, slots=True)
class Refresh:
    """The result of `refresh_items`: a job of new ids, and one of ids that take newer content.

    `conflicts` counts the ids that keep their vectors, `first_conflicts` has some of them.
    `waiting` counts the ids with newer content in shards that are not embedded yet. `overwritten`
    counts the ids in job `newer` whose files were overwritten, `gone` those with vectors whose
    files do not exist.
    """

    job: Job | None = None
    newer: Job | None = None
    conflicts: int = 0
    first_conflicts: list[str] = field(default_factory=list)
    waiting: int = 0
    overwritten: int = 0
    gone: int = 0


def refresh_items(
    dataset: Dataset,
    source: Source,
    shard_size: int,
    *,
    on_conflict: OnConflict,
    by_hash: bool = False,
    on_planning: OnPlanning = say_nothing,
) -> Refresh:
    """Plan the new items of a source, and the newer content of ids that the dataset has.

    An id without a vector takes newer content; an id with a vector by the rule `on_conflict`, or if
    its file was overwritten: then nothing has the older content any more. `by_hash` reads all files
    of the dataset for that, see `OverwrittenFiles`. `on_planning` is called after some thousand
    rows.

    Raises:
        DuplicateIdError: Two items have one id; or the rule is `error`, and ids with vectors have
            other content. Nothing is planned.
        SourceError: The source cannot be read; nothing is planned.
        UsageError: A file of the dataset cannot be looked at.
        PlannedMeanwhileError: Another process planned a job meanwhile: run again.
        DatasetError: A plan or a part is damaged.
    """
    known, refresh = jobs(dataset), Refresh()
    with closing(ChangedItems()) as changed:
        rows = _new_rows(dataset, source, changed, on_conflict, on_planning)
        refresh.job = plan_rows(
            dataset,
            rows,
            source.description,
            shard_size,
            retry=False,
            known=known,
            skipped=source.skipped,
        )
        refresh.newer = plan_rows(
            dataset,
            chain(
                _newer_rows(dataset, changed, refresh, replace=on_conflict == "replace"),
                _overwritten_rows(dataset, changed, refresh, by_hash=by_hash),
            ),
            f"newer content in {source.description}",
            shard_size,
            retry=True,
            known=[*known, refresh.job] if refresh.job else known,
        )
    return refresh


def move_source(dataset: Dataset, source: Source, old: str) -> None:
    """Record that the folder `old`, an absolute path, of planned items is the source's folder now.

    A second call changes nothing.

    Raises:
        UsageError: The items are texts or in memory, or no planned item is below `old`.
        DatasetError: A plan or `moved.json` is damaged.
    """
    new = source.folder
    if new is None or dataset.info.tower == "txt":
        raise UsageError(f"{source.description} has no folder of images that could be moved")
    moves, known = read_moves(dataset), jobs(dataset)
    if any((move.old, move.new) == (old, new) for move in moves.moves):
        return
    uris = (uri for job in known for _, uris in read_job_rows(dataset, job) for uri in uris)
    if not any(is_below(uri, old) for uri in uris):
        raise UsageError(
            f"no item of dataset {dataset.root} is below {old}: name the folder in which the "
            "source was when it was planned"
        )
    write_moves(dataset, Moves((*moves.moves, Move(old=old, new=new, last_job=known[-1].id))))


def _new_rows(
    dataset: Dataset,
    source: Source,
    changed: ChangedItems,
    on_conflict: OnConflict,
    on_planning: OnPlanning,
) -> Iterator[Row]:
    with closing(new_items(dataset, source, changed, on_planning=on_planning)) as items:
        for item in items:
            yield item_row(dataset, item)
    if on_conflict == "error":
        found = Refresh()
        for _ in _newer_rows(dataset, changed, found, replace=False):
            pass
        if found.conflicts:
            raise _conflicts_error(dataset, found)


def _newer_rows(
    dataset: Dataset, changed: ChangedItems, refresh: Refresh, *, replace: bool
) -> Iterator[Row]:
    """Yield the rows of ids that take newer content, and count the others in `refresh`."""
    for name, items in changed.by_shard(dataset.info.tower):
        standing = standing_of(dataset, {item.id: name for item in items})
        for item in items:
            found = standing.get(item.id)
            if found is None:
                refresh.waiting += 1
            elif found.failure is not None or replace:
                yield found.row(item)
            else:
                refresh.conflicts += 1
                if len(refresh.first_conflicts) < SHOWN:
                    refresh.first_conflicts.append(item.id)


def _overwritten_rows(
    dataset: Dataset, changed: ChangedItems, refresh: Refresh, *, by_hash: bool
) -> Iterator[Row]:
    """Yield the rows of ids whose files were overwritten, and count them in `refresh`.

    Ids with another uri in the source are not among them.
    """
    files = OverwrittenFiles(dataset, by_hash=by_hash)
    for item, standing in files:
        if not changed.has(item.id):
            refresh.overwritten += 1
            yield standing.row(item)
    refresh.gone = files.gone


def _conflicts_error(dataset: Dataset, found: Refresh) -> DuplicateIdError:
    column = value_column(dataset.info.tower)
    shown = ", ".join(map(repr, found.first_conflicts))
    more = ", …" if found.conflicts > len(found.first_conflicts) else ""
    return DuplicateIdError(
        f"{found.conflicts} ids of dataset {dataset.root} have vectors of another {column}: "
        f"{shown}{more}. --on-conflict replace embeds the newer content, --on-conflict keep leaves "
        "the vectors. Nothing was planned"
    )

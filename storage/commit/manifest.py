"""The manifest: which shards of a dataset are committed, missing or unfinished."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from clipfleet.messages import Shard
from clipfleet.storage.commit.commit import commit, complete, take_vectors
from clipfleet.storage.commit.record import Commit, VectorCounts, read_record
from clipfleet.storage.format.dataset import Dataset, part_names, record_names
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import Job, jobs, shards
from clipfleet.storage.plan.retries import job_of, replaced_parts, retry_jobs
from clipfleet.storage.plan.shard_work import read_shard_work

_READERS = 16  # threads


class Manifest:
    """The committed shards of a dataset at the last `refresh`.

    Only shards whose names begin with `prefix`, or with one of several: a job's id, `ITEMS_PREFIX`.
    """

    def __init__(self, dataset: Dataset, prefix: str | tuple[str, ...] = "") -> None:
        self._dataset = dataset
        self._prefix = prefix
        self._counts: dict[str, tuple[int, int]] = {}  # name → (vectors, errors)
        self._remarks: dict[str, VectorCounts] = {}
        self._retries: set[str] = set()  # ids of jobs

    def refresh(self, again: Collection[str] = ()) -> set[str]:
        """Read the records that are new since the last call, and those named in `again`.

        Returns the names of the parts that lost vectors to new ones.

        Raises:
            DatasetError: A record is damaged.
        """
        names = committed_names(self._dataset)
        committed = {name for name in names if name.startswith(self._prefix)}
        self._retries = {job.id for job in retry_jobs(self._dataset)}
        for name in self._counts.keys() - committed:
            del self._counts[name]
            self._remarks.pop(name, None)
        new = self._read(committed - (self._counts.keys() - set(again)))
        self._read(new & self._counts.keys())  # these have other counts now
        return new

    def _read(self, names: Collection[str]) -> set[str]:
        """Read records; return the names of the parts that lost vectors to theirs."""
        replaced: set[str] = set()
        for name, record in read_records(self._dataset, names):
            self._counts[name] = (record.vectors, record.errors)
            if any(record.counts):
                self._remarks[name] = record.counts
            else:
                self._remarks.pop(name, None)
            replaced.update(record.replaced)
        return replaced

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._counts)

    @property
    def shards(self) -> int:
        return len(self._counts)

    @property
    def vectors(self) -> int:
        return sum(vectors for vectors, _ in self._counts.values())

    @property
    def errors(self) -> int:
        """The errors in all parts, also those that a retry superseded."""
        return sum(errors for _, errors in self._counts.values())

    @property
    def counts(self) -> VectorCounts:
        """What the records count of their vectors, in all."""
        return VectorCounts(*map(sum, zip(VectorCounts(), *self._remarks.values(), strict=True)))

    @property
    def retried(self) -> int:
        """The items in the parts of retries: each superseded one error of an older part."""
        of_retries = (n for n in self._counts if job_of(n) in self._retries)
        return sum(sum(self._counts[name]) for name in of_retries)


def read_records(dataset: Dataset, names: Collection[str]) -> Iterator[tuple[str, Commit]]:
    """Yield the records of shards that have one; several are read at a time.

    (An object store answers each request after some 20 ms.)

    Raises:
        DatasetError: A record is damaged.
    """
    if not names:
        return
    with ThreadPoolExecutor(min(_READERS, len(names))) as pool:
        for name, record in zip(names, pool.map(partial(read_record, dataset), names), strict=True):
            if record is not None:
                yield name, record


def committed_names(dataset: Dataset) -> set[str]:
    """Return the names of the shards that have both a record and a part."""
    records = record_names(dataset.fs)
    # Records first: a part precedes its record, so a record without a listed part has lost it.
    return records & part_names(dataset.fs)


def missing_shards(dataset: Dataset, planned: Sequence[Job] | None = None) -> Iterator[Shard]:
    """Yield the shards of jobs (by default of all) that lack their record or their part."""
    done = committed_names(dataset)
    for job in jobs(dataset) if planned is None else planned:
        yield from (shard for shard in shards(job) if shard.name not in done)


def finish(dataset: Dataset) -> None:
    """Finish what processes left that died.

    These are parts without a record, removals, and vectors that were replaced.

    That is safe while workers run: they would write the same files.

    Raises:
        DatasetError: A part or a plan is damaged, or is another dataset's.
        StorageError: The disk did not answer.
    """
    for name in unfinished(dataset):
        complete(dataset, name)
    _finish_removals(dataset)
    for name in replaced_parts(dataset):
        take_vectors(dataset, name)


def _finish_removals(dataset: Dataset) -> None:
    removals = [job for job in retry_jobs(dataset) if job.removes]
    for shard in missing_shards(dataset, removals) if removals else ():
        nothing = Embedded(
            items=[],
            vectors=np.empty((0, dataset.info.dim), np.float32),
            sizes=[] if dataset.info.tower == "img" else None,
            failures=[],
        )
        tombstones = read_shard_work(dataset, shard).finish(nothing)
        commit(dataset, shard.name, tombstones, card=dataset.info.card, worker="remove")


def unfinished(dataset: Dataset) -> list[str]:
    """Return the names of the parts without a record: their workers died before writing it."""
    # Parts first: a record follows its part, so a part without a listed record may lack it.
    parts = part_names(dataset.fs)
    return sorted(parts - record_names(dataset.fs))

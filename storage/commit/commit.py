"""The manifest: the record of committed shards, and how a shard is committed.

The appearance of the part decides for a shard; the first writer wins. Its footer tells
everything else, so the errors table and the record are written from it, in this order,
by whoever sees the part first: the same worker, another one, or a later run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipfleet.errors import DatasetError, DatasetMismatchError
from clipfleet.messages import Shard
from clipfleet.model_card import ModelCard
from clipfleet.storage.format.dataset import Dataset, utc_now
from clipfleet.storage.format.parts import (
    Embedded,
    Footer,
    errors_bytes,
    errors_path,
    part_of,
    part_path,
    read_footer,
    way_out,
)
from clipfleet.storage.format.records import (
    Commit,
    part_names,
    read_record,
    read_records,
    record_names,
    record_of,
    record_path,
)
from clipfleet.storage.jobs.plan_reader import Job, jobs, shards
from clipfleet.storage.jobs.retries import job_of, retry_jobs, superseded

__all__ = [
    "Commit",
    "Manifest",
    "commit",
    "commit_first",
    "committed_names",
    "complete",
    "is_committed",
    "missing_shards",
    "part_names",
    "read_record",
    "record_path",
    "unfinished",
    "withdraw",
]


def commit(
    dataset: Dataset, name: str, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit:
    """Write a shard's part, errors table and record; return the record that stands.

    If the shard has a part already, `embedded` is dropped and the commit of that part is
    finished instead. `card` is of the dataset's model (`Dataset.check_model`).

    Raises:
        DatasetMismatchError: The part that was there is of another model.
        DatasetError: The vectors are not what the dataset holds, or a part is damaged.
        StorageError: The disk refused a write; committing again is safe.
    """
    done = commit_first(dataset, name, embedded, card=card, worker=worker)
    done = done or complete(dataset, name)
    if done is None:
        raise DatasetError(
            f"part {part_path(name)} vanished from {dataset.root} while it was committed: let "
            "nothing delete parts while workers run"
        )
    return done


def commit_first(
    dataset: Dataset, name: str, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit | None:
    """Commit a shard that has no part yet; None, and nothing changed, if it has one.

    Raises:
        As `commit` does.
    """
    data, footer = part_of(embedded, dataset.info, card, name, worker=worker, finished_at=utc_now())
    if dataset.fs.exists(record_path(name)):
        if dataset.fs.exists(part_path(name)):
            return None
        # A part precedes its record: somebody deleted it, to have it made again.
        dataset.fs.delete(record_path(name))
    if not dataset.fs.create(part_path(name), data):
        return None
    return _finish(dataset, footer)


def is_committed(dataset: Dataset, name: str) -> bool:
    """Return whether a shard has its record and its part."""
    return dataset.fs.exists(record_path(name)) and dataset.fs.exists(part_path(name))


def complete(dataset: Dataset, name: str) -> Commit | None:
    """Finish the commit of a shard that has a part; None if it has none.

    Raises:
        DatasetError: The part is damaged, or another shard's.
        DatasetMismatchError: It holds another model's vectors.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return None
    with file:
        footer = read_footer(file, path=part_path(name))
    _check_footer(dataset, name, footer)
    return _finish(dataset, footer)


def unfinished(dataset: Dataset) -> list[str]:
    """Return the names of the shards that have a part and no record: their worker died.

    `complete` finishes them; that is safe while workers run, for they would write the same.
    """
    # Parts first: a record follows its part, so none of these is merely newer than the list.
    parts = part_names(dataset.fs)
    return sorted(parts - record_names(dataset.fs))


def withdraw(dataset: Dataset, name: str) -> None:
    """Take back the record, and the errors table, of a shard whose part was moved away."""
    dataset.fs.delete(errors_path(name))
    dataset.fs.delete(record_path(name))  # last: as long as it is there, this is done again


def missing_shards(dataset: Dataset, planned: Sequence[Job] | None = None) -> Iterator[Shard]:
    """Yield the planned shards, of some jobs or of all, that have no record or no part any more."""
    done = committed_names(dataset)
    for job in jobs(dataset) if planned is None else planned:
        yield from (shard for shard in shards(job) if shard.name not in done)


def committed_names(dataset: Dataset) -> set[str]:
    """Return the names of the shards that have their record and their part."""
    records = record_names(dataset.fs)
    # Records first: a part precedes its record, so a record without a part has lost it.
    return records & part_names(dataset.fs)


class Manifest:
    """The committed shards of a dataset as they were at the last `refresh`.

    Only those whose names begin with `prefix`, or one of several: a job's id, `ITEMS_PREFIX`.
    """

    def __init__(self, dataset: Dataset, prefix: str | tuple[str, ...] = "") -> None:
        self._dataset = dataset
        self._prefix = prefix
        self._counts: dict[str, tuple[int, int]] = {}  # name → (vectors, errors)
        self._cut: dict[str, int] = {}  # name → cut texts, where there are any
        self._retries: set[str] = set()  # ids of jobs

    def refresh(self) -> None:
        """Read the records that are new since last time.

        Raises:
            DatasetError: A record is damaged.
        """
        names = committed_names(self._dataset)
        committed = {name for name in names if name.startswith(self._prefix)}
        self._retries = {job.id for job in retry_jobs(self._dataset)}
        for name in self._counts.keys() - committed:
            del self._counts[name]
            self._cut.pop(name, None)
        for name, record in read_records(self._dataset, committed - self._counts.keys()):
            self._counts[name] = (record.vectors, record.errors)
            if record.cut:
                self._cut[name] = record.cut

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
        """Errors that shards ended with; those that a retry took up are among them."""
        return sum(errors for _, errors in self._counts.values())

    @property
    def cut(self) -> int:
        """Vectors of texts that were longer than the model's context length."""
        return sum(self._cut.values())

    @property
    def retried(self) -> int:
        """Items of retries that are done: so many errors of older shards are superseded."""
        of_retries = (n for n in self._counts if job_of(n) in self._retries)
        return sum(sum(self._counts[name]) for name in of_retries)


def _finish(dataset: Dataset, footer: Footer) -> Commit:
    """Write the errors table and then the record of a part; doing it twice changes nothing."""
    _write_errors(dataset, footer)
    for part in footer.retries:
        _trim_errors(dataset, part)
    record = record_of(footer)
    dataset.fs.replace(record_path(footer.shard), record.to_json().encode())
    return record


def _write_errors(dataset: Dataset, footer: Footer) -> None:
    """Write the errors table of a part, or remove it if no failure of it stands.

    Several may do this at once, and a retry's part may appear meanwhile: so it looks again
    after it wrote. One that is killed before it does may leave rows that newer parts have;
    readers know them by that (docs/dataset-format.md).
    """
    if not footer.failures:  # a table that is there is an earlier part's, which somebody deleted
        dataset.fs.delete(errors_path(footer.shard))
        return
    ids = {failure.item.id for failure in footer.failures}
    known: set[str] | None = None
    while (newer := superseded(dataset, ids, after=job_of(footer.shard))) != known:
        known = newer
        standing = [failure for failure in footer.failures if failure.item.id not in newer]
        if standing:
            data = errors_bytes(standing, dataset.info.tower)
            dataset.fs.replace(errors_path(footer.shard), data)
        else:
            dataset.fs.delete(errors_path(footer.shard))


def _trim_errors(dataset: Dataset, name: str) -> None:
    """Take out of a part's errors table what a retry's part has; nothing if the part is gone.

    Raises:
        DatasetError: The part is damaged.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return
    with file:
        footer = read_footer(file, path=part_path(name))
    _write_errors(dataset, footer)


def _check_footer(dataset: Dataset, name: str, footer: Footer) -> None:
    if footer.shard != name:
        raise DatasetError(
            f"{dataset.root}/{part_path(name)} is the part of {footer.shard}, renamed: give it "
            f"its name back; or {way_out(name)}"
        )
    if footer.model != dataset.info.model:
        raise DatasetMismatchError(
            f"{dataset.root}/{part_path(name)} holds vectors of model {footer.model}, its dataset "
            f"those of {dataset.info.model}: {way_out(name)}"
        )

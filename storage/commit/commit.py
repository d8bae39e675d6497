"""How a shard is committed: its part first, then its errors table and its record.

The part decides: of several writers, the first to create it wins. The errors table and the record
follow from the part's file. Any process that finds the part can write them, in this order: the
same worker, another worker, or a later run. A damaged part is not finished.
"""

from __future__ import annotations

import io
from contextlib import closing

from clipfleet.errors import DatasetError, DatasetMismatchError
from clipfleet.model_card import ModelCard
from clipfleet.storage.commit.record import Commit, has_empty_record, record_of, record_path
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import Dataset, utc_now
from clipfleet.storage.format.errors_table import errors_bytes, errors_path
from clipfleet.storage.format.footer import Footer
from clipfleet.storage.format.parts import (
    ITEMS_PREFIX,
    check_payload,
    part_of,
    part_path,
    part_remedy,
    read_footer,
    row_ids,
    without_rows,
)
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.retries import job_of, replaced_ids, superseded_ids


def commit(
    dataset: Dataset, name: str, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit:
    """Write a shard's part, errors table and record; return the record.

    If the shard has a part already, `embedded` is dropped, and the commit of the existing part is
    finished. `card` is of the dataset's model (`Dataset.check_model`).

    Raises:
        DatasetMismatchError: The existing part is of another model.
        DatasetError: The vectors do not fit the dataset, or a part is damaged.
        StorageError: The disk refused a write; committing again is safe.
    """
    done = commit_first(dataset, name, embedded, card=card, worker=worker)
    done = done or complete(dataset, name)
    if done is None:
        raise DatasetError(
            f"part {part_path(name)} was deleted from {dataset.root} during its commit: delete "
            "no parts while workers run"
        )
    return done


def commit_first(
    dataset: Dataset, name: str, embedded: Embedded, *, card: ModelCard, worker: str
) -> Commit | None:
    """Commit a shard that has no part; return None, and change nothing, if it has one.

    Raises:
        DatasetError, StorageError: As in `commit`.
    """
    data, footer = part_of(embedded, dataset.info, card, name, worker=worker, finished_at=utc_now())
    if dataset.fs.exists(record_path(name)):
        if dataset.fs.exists(part_path(name)):
            return None
        # A part precedes its record: so the part was deleted, to be made again.
        dataset.fs.delete(record_path(name))
    for part in embedded.replaced:
        take_vectors(dataset, part)
    if not dataset.fs.create(part_path(name), data):
        return None
    return _finish(dataset, footer, file_sha256(data))


def is_committed(dataset: Dataset, name: str) -> bool:
    """Return whether a shard has both a record and a part."""
    return dataset.fs.exists(record_path(name)) and dataset.fs.exists(part_path(name))


def complete(dataset: Dataset, name: str) -> Commit | None:
    """Finish the commit of a shard that has a part; return None if it has none.

    Raises:
        DatasetError: The part is damaged, or is another shard's.
        DatasetMismatchError: The part holds another model's vectors.
    """
    try:
        data = dataset.fs.read(part_path(name))
    except FileNotFoundError:
        return None
    footer = check_payload(data, path=part_path(name))
    _check_footer(dataset, name, footer)
    return _finish(dataset, footer, file_sha256(data))


def take_vectors(dataset: Dataset, name: str) -> None:
    """Turn the vectors of a part that retries replace into failures; a second call changes nothing.

    Such an id is an error, `replaced`, until the part with its newer content appears. Several
    processes may do this at once, each for the retries that it sees: so the part is read again
    until nobody has changed it.

    Raises:
        DatasetError: The part is damaged.
    """
    path, last = part_path(name), None
    while True:
        try:
            part = dataset.fs.read(path)
        except FileNotFoundError:  # deleted; its shard is embedded again without these ids
            return
        if part == last:
            return
        last = part
        footer = check_payload(part, path=path)
        with closing(io.BytesIO(part)) as file:
            taken = replaced_ids(dataset, name, set(row_ids(file, path=path)))
            if taken:
                dataset.fs.replace(path, without_rows(file, taken, dataset.info, path=path))
            else:
                _finish(dataset, footer, file_sha256(part))


def withdraw(dataset: Dataset, name: str) -> None:
    """Delete the errors table and the record of a shard whose part was moved away.

    A record of single items becomes an empty one: it shows that the gap in the numbers is meant.
    """
    dataset.fs.delete(errors_path(name))
    # The record last: while it exists, the next call repeats both.
    if not name.startswith(ITEMS_PREFIX):
        dataset.fs.delete(record_path(name))
        return
    if not has_empty_record(dataset, name):
        empty = Commit(
            name=name,
            vectors=0,
            errors=0,
            part=part_path(name),
            model=dataset.info.model,
            engine_sha256="",
            finished_at=utc_now(),
            worker="",
        )
        dataset.fs.replace(record_path(name), empty.to_json().encode())


def _finish(dataset: Dataset, footer: Footer, sha256: str) -> Commit:
    """Write the errors table and then the record of a part; a second call changes nothing."""
    _write_errors(dataset, footer)
    for part in footer.retries:
        _trim_errors(dataset, part)
    record = record_of(footer, sha256)
    dataset.fs.replace(record_path(footer.shard), record.to_json().encode())
    return record


def _write_errors(dataset: Dataset, footer: Footer) -> None:
    """Write the errors table of a part, or delete it if newer parts have all of its failures.

    Several processes may do this at once, and a retry's part may appear meanwhile: so the newer
    parts are checked again after each write. A process that is killed before the check may leave
    superseded rows; readers skip them (docs/reference/dataset-format.md).
    """
    if not footer.failures:  # an existing table belongs to an earlier part, which was deleted
        dataset.fs.delete(errors_path(footer.shard))
        return
    ids = {failure.item.id for failure in footer.failures}
    known: set[str] | None = None
    while (newer := superseded_ids(dataset, ids, after=job_of(footer.shard))) != known:
        known = newer
        standing = [failure for failure in footer.failures if failure.item.id not in newer]
        if standing:
            data = errors_bytes(standing, dataset.info.tower)
            dataset.fs.replace(errors_path(footer.shard), data)
        else:
            dataset.fs.delete(errors_path(footer.shard))


def _trim_errors(dataset: Dataset, name: str) -> None:
    """Write a part's errors table again, without the failures that a retry's part has.

    Raises:
        DatasetError: The part is damaged.
    """
    with open_if_exists(dataset.fs, part_path(name)) as file:
        if file is None:
            return
        footer = read_footer(file, path=part_path(name))
    _write_errors(dataset, footer)


def _check_footer(dataset: Dataset, name: str, footer: Footer) -> None:
    if footer.shard != name:
        raise DatasetError(
            f"{dataset.root}/{part_path(name)} is the part of {footer.shard}, renamed: give it "
            f"its name back; or {part_remedy(name)}"
        )
    if footer.model != dataset.info.model:
        raise DatasetMismatchError(
            f"{dataset.root}/{part_path(name)} holds vectors of model {footer.model}, its dataset "
            f"those of {dataset.info.model}: {part_remedy(name)}"
        )

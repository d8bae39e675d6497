"""Damaged parts: they are moved to `_damaged/`, so that their shards are embedded again."""

from __future__ import annotations

from clipfleet.errors import DatasetError
from clipfleet.items import Item
from clipfleet.storage.commit.commit import complete, withdraw
from clipfleet.storage.commit.record import record_path
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import DAMAGED_FOLDER, Dataset
from clipfleet.storage.format.errors_table import errors_path
from clipfleet.storage.format.parquet import PARQUET_ERRORS, open_parquet, read_row_groups
from clipfleet.storage.format.parts import ITEMS_PREFIX, footer_of, part_path, value_column


def move_away(dataset: Dataset, name: str) -> None:
    """Move a damaged part to `_damaged/`, and withdraw its record and its errors table.

    A record of single items stays: `verify` names it until a later part withdraws it.

    Raises:
        DatasetError: The part is a folder.
        StorageError: The disk refused; moving again is safe.
    """
    try:
        data = dataset.fs.read(part_path(name))
    except FileNotFoundError:  # a symbolic link to nothing
        pass
    else:  # an existing copy has the same bytes: an earlier call was killed here
        dataset.fs.create(f"{DAMAGED_FOLDER}/{name}-{file_sha256(data)[:12]}.parquet", data)
    dataset.fs.delete(part_path(name))
    withdraw_lost(dataset, name)


def write_again(dataset: Dataset, name: str) -> None:
    """Write the record and the errors table of a part again, or withdraw those without a part.

    Raises:
        DatasetError: The part or a plan is damaged.
        StorageError: The disk refused; writing again is safe.
    """
    if complete(dataset, name) is None:
        withdraw_lost(dataset, name)


def withdraw_lost(dataset: Dataset, name: str) -> None:
    """Withdraw the record and the errors table of a part that is gone.

    A record of single items stays as it is, and a gap in their numbers gets an empty record.
    """
    if name.startswith(ITEMS_PREFIX) and dataset.fs.exists(record_path(name)):
        dataset.fs.delete(errors_path(name))
    else:
        withdraw(dataset, name)


def readable_items(dataset: Dataset, name: str) -> tuple[list[Item], bool]:
    """Return the items of a damaged part as far as they can be read, and whether these are all."""
    column = value_column(dataset.info.tower)
    items: list[Item] = []
    path = part_path(name)
    try:
        with dataset.fs.open(path) as file:
            parquet = open_parquet(file)
            items += [failure.item for failure in footer_of(parquet.metadata, path=path).failures]
            for rows in read_row_groups(parquet, ["id", column]):
                items += [Item(**row) for row in rows.select(["id", column]).to_pylist()]
    except (DatasetError, FileNotFoundError, ValueError, *PARQUET_ERRORS):
        return items, False
    return items, True

"""Errors tables: the Parquet files of items without vectors; each belongs to a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.storage.filesystem.base import open_if_exists
from clipfleet.storage.format.dataset import ERRORS_FOLDER, Dataset
from clipfleet.storage.format.footer import FORMAT, VERSION_KEY
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_bytes,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import item_value, value_column
from clipfleet.storage.format.results import Failure


def errors_path(name: str) -> str:
    """Return the path of a shard's errors table."""
    return f"{ERRORS_FOLDER}/{name}.parquet"


def errors_schema(tower: Tower) -> pa.Schema:
    """Return an errors table's columns: id, uri or text, error, message, attempt."""
    names = ("id", value_column(tower), "error", "message")
    strings = [pa.field(name, pa.string(), nullable=False) for name in names]
    return pa.schema([*strings, pa.field("attempt", pa.int32(), nullable=False)])


def errors_bytes(failures: Sequence[Failure], tower: Tower) -> memoryview:
    """Return the Parquet file of an errors table."""
    columns = {
        "id": [f.item.id for f in failures],
        value_column(tower): [item_value(f.item) for f in failures],
        "error": [f.error for f in failures],
        "message": [f.message for f in failures],
        "attempt": [f.attempt for f in failures],
    }
    return parquet_bytes(pa.table(columns, schema=errors_schema(tower)), {VERSION_KEY: FORMAT})


def read_errors(dataset: Dataset, name: str) -> Iterator[Failure]:
    """Yield the rows of a shard's errors table, if it has one; memory holds one row group.

    Raises:
        DatasetError: The table is damaged.
        StorageError: The disk did not answer.
    """
    column = value_column(dataset.info.tower)
    path = errors_path(name)
    with open_if_exists(dataset.fs, path) as file:
        if file is None:
            return
        try:
            names = errors_schema(dataset.info.tower).names
            for rows in read_row_groups(open_parquet(file), names):
                for row in rows.select(names).to_pylist():
                    item = Item(id=row.pop("id"), **{column: row.pop(column)})
                    yield Failure(item=item, **row)
        except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: a row describes no failure
            remedy = "delete its manifest record, and `clipfleet resume` writes both again"
            raise parquet_error(error, f"{dataset.root}/{path}", remedy=remedy) from error

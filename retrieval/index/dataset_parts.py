"""The parts of a dataset, as an index reads them: each is checked by its SHA-256."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.errors import DatasetError
from clipfleet.retrieval.index.card import IndexedPart
from clipfleet.storage.commit.manifest import committed_names, read_records
from clipfleet.storage.format.checksums import file_sha256
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
    stored_vectors,
)
from clipfleet.storage.format.parts import part_path, part_remedy, part_schema, value_column

ID, EMBEDDING = "id", "embedding"


def committed_parts(dataset: Dataset) -> tuple[IndexedPart, ...]:
    """Return the committed parts that have vectors, in the order of their names.

    A part that a worker has not recorded yet is left to the next append.

    Raises:
        DatasetError: A record is damaged.
    """
    names = sorted(committed_names(dataset))
    return tuple(
        IndexedPart(
            name=name,
            # Records of earlier versions have no SHA-256.
            sha256=record.sha256 or file_sha256(_bytes_of(dataset, name)),
            rows=record.vectors,
        )
        for name, record in read_records(dataset, names)
        if record.vectors
    )


def item_columns(dataset: Dataset) -> list[str]:
    """Return the columns of the items: the id, and the uri or the text."""
    return [ID, value_column(dataset.info.tower)]


def read_part(dataset: Dataset, part: IndexedPart, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the row groups of a part; memory holds the part's file and one row group.

    Raises:
        DatasetError: The part was changed, moved away, or is damaged.
        StorageError: The disk or the object store did not answer.
    """
    data = _bytes_of(dataset, part.name)
    if file_sha256(data) != part.sha256:
        raise DatasetError(
            f"{dataset.root}/{part_path(part.name)} is another file than its record says: if a job "
            "changed it just now, run again; otherwise `clipfleet verify` tells what is wrong"
        )
    schema = part_schema(dataset.info)
    wanted = pa.schema([schema.field(name) for name in columns])
    with _reading(dataset, part.name), io.BytesIO(data) as file:
        for group in read_row_groups(open_parquet(file), columns):
            yield group.select(columns).cast(wanted)


def read_groups(
    dataset: Dataset, part: IndexedPart, rows: Collection[int]
) -> Iterator[NDArray[np.float16]]:
    """Yield the vectors (n, D) of the row groups in which the given rows of a part are.

    Raises:
        DatasetError, StorageError: As in `read_part`.
    """
    try:
        file = dataset.fs.open(part_path(part.name))
    except FileNotFoundError as error:
        raise _gone(dataset, part.name) from error
    with file, _reading(dataset, part.name):
        parquet = open_parquet(file)
        for index in _groups_with(parquet, rows):
            group = parquet.read_row_group(index, columns=[EMBEDDING], use_threads=False)
            yield float16_vectors(group, dataset.info.dim)


def float16_vectors(rows: pa.Table, dim: int) -> NDArray[np.float16]:
    """Return the vectors of rows as float16 (n, D)."""
    return stored_vectors(rows, dim).astype(np.float16, copy=False)


@contextmanager
def _reading(dataset: Dataset, name: str) -> Iterator[None]:
    """Turn the errors of reading a part into those of clipfleet."""
    try:
        yield
    except (*PARQUET_ERRORS, ValueError) as error:  # ValueError: other columns
        path = f"{dataset.root}/{part_path(name)}"
        raise parquet_error(error, path, remedy=part_remedy(name)) from error


def _groups_with(parquet: pq.ParquetFile, rows: Collection[int]) -> list[int]:
    sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    found = np.searchsorted(np.cumsum(sizes), list(rows), side="right")
    return [int(n) for n in np.unique(found) if n < len(sizes)]


def _bytes_of(dataset: Dataset, name: str) -> bytes:
    try:
        return dataset.fs.read(part_path(name))
    except FileNotFoundError as error:
        raise _gone(dataset, name) from error


def _gone(dataset: Dataset, name: str) -> DatasetError:
    return DatasetError(
        f"{dataset.root}/{part_path(name)} was moved away while it was read: run again"
    )

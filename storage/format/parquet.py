"""Parquet files of a dataset: settings to write them, checked reading, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, StorageError

ROW_GROUP_ROWS = 4096
_HASHED_GROUP_ROWS = 256  # where vectors are copied by content hashes: a copy reads a group

# Errors of reading; pyarrow raises an OSError without an errno for some damage.
PARQUET_ERRORS = (pa.ArrowException, OSError)
# Columns in which no row is null.
_STRINGS = frozenset({"id", "uri", "text", "error", "message", "part", "content_hash"})
_NUMBERS = frozenset({"attempt", "size_bytes", "mtime_ns"})
_NULLABLE = frozenset({"fault"})


def parquet_bytes(table: pa.Table, metadata: dict[bytes, str]) -> memoryview:
    """Return a table as a Parquet file that every common reader opens, and opens fast.

    Values are PLAIN, compressed by Zstandard: DuckDB cannot read float16 as BYTE_STREAM_SPLIT.
    Only ids have statistics and no column has a dictionary: vectors gain nothing by them. Each page
    has a checksum.
    """
    hashed = "content_hash" in table.column_names
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=False,
        column_encoding={_leaf(field): "PLAIN" for field in table.schema},
        write_statistics=["id"],
        write_page_checksum=True,
    ) as writer:
        if table.num_rows:  # Hugging Face datasets fails at a row group without rows
            size = _HASHED_GROUP_ROWS if hashed else ROW_GROUP_ROWS
            writer.write_table(table, row_group_size=size)
        # Not in the schema: Arrow writes the metadata of a schema into the file twice.
        writer.add_key_value_metadata(metadata)
    return memoryview(sink.getvalue())


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """Return a Parquet file that is read only in the calling thread; pages are checked.

    By default pyarrow reads ahead in its own threads. If such a thread still holds a Python file
    while the interpreter exits, `std::terminate` ends the process.

    Raises:
        pyarrow.ArrowException, OSError: It is damaged.
    """
    try:
        return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
    except UnicodeDecodeError as error:  # a column's name
        raise pa.ArrowInvalid(str(error)) from error


def read_row_group(parquet: pq.ParquetFile, index: int, columns: list[str]) -> pa.Table:
    """Return a row group of a file from `open_parquet`; reads only in the calling thread.

    Raises:
        pyarrow.ArrowException, OSError: It is damaged, or lacks a column.
    """
    return _checked(parquet.read_row_group(index, columns=columns, use_threads=False), columns)


def read_columns(parquet: pq.ParquetFile, columns: list[str]) -> pa.Table:
    """Return whole columns, as `read_row_group` returns those of a row group.

    Raises:
        pyarrow.ArrowException, OSError: It is damaged, or lacks a column.
    """
    return _checked(parquet.read(columns=columns, use_threads=False), columns)


def _checked(table: pa.Table, columns: list[str]) -> pa.Table:
    if sorted(table.column_names) != sorted(columns):  # a column is missing, or there twice
        raise pa.ArrowInvalid(f"of the columns {columns} it has {table.column_names}")
    for name in (_STRINGS | _NULLABLE).intersection(columns):
        type_ = table[name].type
        if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
            raise pa.ArrowInvalid(f"its column {name} holds {type_}, not strings")
    for name in _NUMBERS.intersection(columns):
        if not pa.types.is_integer(table[name].type):
            raise pa.ArrowInvalid(f"its column {name} holds {table[name].type}, not numbers")
    for name in (_STRINGS | _NUMBERS).intersection(columns):
        if table[name].null_count:
            raise pa.ArrowInvalid(f"it has rows without {name}")
    # Finds strings that are not UTF-8 here, not at their first use.
    table.validate(full=True)
    return table


def read_row_groups(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.Table]:
    """Yield a file's row groups. (`iter_batches` of older pyarrow fails in a file without one.)"""
    for index in range(parquet.num_row_groups):
        yield read_row_group(parquet, index, columns)


def stored_vectors(rows: pa.Table, dim: int) -> NDArray[np.floating[Any]]:
    """Return the vectors of some rows of a part, (n, D), in the dtype that they are stored in."""
    flat = rows["embedding"].combine_chunks().flatten()
    vectors: NDArray[np.floating[Any]] = flat.to_numpy(zero_copy_only=False)
    return vectors.reshape(rows.num_rows, dim)


def ranges_of(parquet: pq.ParquetFile, column: str) -> list[tuple[str, str] | None]:
    """Return the least and the largest string of each row group, by its statistics.

    None if the file does not say: then the row group may have any string.
    """
    number = parquet.schema_arrow.get_field_index(column)
    groups = range(parquet.num_row_groups)
    return [
        _range(parquet.metadata.row_group(n).column(number)) if number >= 0 else None
        for n in groups
    ]


def _range(chunk: pq.ColumnChunkMetaData) -> tuple[str, str] | None:
    statistics = chunk.statistics
    if statistics is None or not statistics.has_min_max or statistics.physical_type != "BYTE_ARRAY":
        return None
    try:
        least, most = statistics.min, statistics.max
    except UnicodeDecodeError:
        return None
    return (least, most) if isinstance(least, str) and isinstance(most, str) else None


def parquet_error(error: Exception, path: str, *, remedy: str) -> DatasetError | StorageError:
    """Return DatasetError for a damaged file, StorageError for a disk that could not read it."""
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(f"cannot read {path}: {error.strerror}")
    return DatasetError(f"{path} is damaged ({type(error).__name__}: {error}): {remedy}")


def _leaf(field: pa.Field) -> str:
    """Return the Parquet path of a field's values."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name

"""Columns of Parquet files that hold whole pictures: read a few megabytes at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

BUFFER_BYTES = 1 << 20  # of a column; pyarrow's defaults keep all that was read in memory
# pyarrow raises the last three for strings that are not UTF-8, and times that Python cannot hold.
PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError)

_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 4096
_TAIL_BYTES = 8  # the footer's length and "PAR1"


def open_columns(source: str | BinaryIO) -> pq.ParquetFile:
    """Return a Parquet file that is read page by page; its errors are `PARQUET_ERRORS`.

    `source` is its path, or the open file.
    """
    return pq.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER_BYTES)


def column_batches(
    file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    """Yield columns of row groups in batches of about 8 MiB, of a row at least.

    The first column's size decides. In `columns`, `image.bytes` is a field of the column `image`.
    """
    chunks = [column_chunk(file, group, columns[0]) for group in groups]
    values = sum(chunk.num_values for chunk in chunks)
    mean_bytes = sum(chunk.total_uncompressed_size for chunk in chunks) // max(1, values)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, mean_bytes)))
    # In this thread: the next columns are not read meanwhile, and memory stays flat.
    yield from file.iter_batches(rows, row_groups=groups, columns=list(columns), use_threads=False)


def column_chunk(file: pq.ParquetFile, group: int, column: str) -> pq.ColumnChunkMetaData:
    """Return what the footer says of a column in a row group.

    Raises:
        KeyError: There is no such column.
    """
    found = file.metadata.row_group(group)
    for number in range(found.num_columns):
        chunk = found.column(number)
        if chunk.path_in_schema == column:
            return chunk
    raise KeyError(f"no column {column!r}")


def footer_crc32(file: BinaryIO) -> int:
    """Return the CRC-32 of an open Parquet file's footer, which another file has another of.

    Raises:
        OSError: The disk did not answer.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    length = min(size, _TAIL_BYTES + int.from_bytes(tail[:4], "little"))
    file.seek(size - length)
    return zlib.crc32(file.read(length))

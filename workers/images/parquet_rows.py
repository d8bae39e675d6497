"""Rows of a column of pictures in Parquet files, read in batches."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa

from clipfleet.errors import ItemError
from clipfleet.storage.filesystem.members import ParquetPicture
from clipfleet.storage.filesystem.parquet_columns import (
    PARQUET_ERRORS,
    column_batches,
    footer_crc32,
    open_columns,
)


def read_row(file: int, member: ParquetPicture) -> bytes:
    """Return the picture in a row of the open Parquet file `file`.

    Each thread keeps the column that it read last, with its place in it: so rows in their order
    are read once. A row before the last one begins its row group again.

    Raises:
        OSError: The disk did not answer.
        ValueError: The file is damaged, or another one than was planned.
    """
    status = os.fstat(file)
    place = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def opened() -> BinaryIO:
        return open(file, "rb", closefd=False)

    column = _last.column_of(place, member, opened, f"/proc/self/fd/{file}")
    return column.value(member.row - 1)


def read_remote_row(opened: Callable[[], BinaryIO], member: ParquetPicture) -> bytes:
    """Return the picture in a row of a remote Parquet file, which `opened` opens, as `read_row`.

    After a failure of the server, the next row begins its row group again.

    Raises:
        OSError, ValueError: As `read_row` does.
        ItemError: Of a web server.
    """
    try:
        return _last.column_of((member.path,), member, opened).value(member.row - 1)
    except (OSError, ItemError):
        _last.forget()
        raise


class _Last(threading.local):
    """The column that a thread read last."""

    def __init__(self) -> None:
        self._column: _Column | None = None
        self._identity: tuple[object, ...] = ()

    def column_of(
        self,
        place: tuple[object, ...],
        member: ParquetPicture,
        opened: Callable[[], BinaryIO],
        path: str | None = None,
    ) -> _Column:
        """Return a column of the file at a place; pyarrow reads it at its path, if it has one."""
        identity = (*place, member.column, member.footer)
        if self._column is None or self._identity != identity:
            self._column = None  # frees the memory of its batch
            with opened() as file:
                if footer_crc32(file) != member.footer:
                    raise ValueError("its file is another one than was planned")
            self._column = _Column(path or opened(), member.column)
            self._identity = identity
        return self._column

    def forget(self) -> None:
        """Keep no column."""
        self._column = None


_last = _Last()


class _Column:
    """A column, the batch of it that was read last, and those after it in the row group."""

    def __init__(self, source: str | BinaryIO, name: str) -> None:
        self._name = name
        try:
            self._file = open_columns(source)
        except PARQUET_ERRORS as error:
            raise _unreadable(error) from error
        metadata = self._file.metadata
        groups = range(metadata.num_row_groups)
        self._ends = list(accumulate(metadata.row_group(group).num_rows for group in groups))
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._values: pa.Array = pa.array([])
        self._start = self._end = 0  # the rows of the batch
        self._damage: dict[int, tuple[int, str]] = {}  # of a row group: its first row, and why

    def value(self, row: int) -> bytes:
        """Return the value in a row, counted from 0."""
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise ValueError(f"its file ends before row {row + 1}")
        if group != self._group or row < self._start:
            self._begin(group)
        while row >= self._end:
            self._advance()
        value: bytes | None = self._values[row - self._start].as_py()
        if value is None:
            raise ValueError("its row has no bytes")
        return value

    def _begin(self, group: int) -> None:
        self._batches = column_batches(self._file, [self._name], [group])
        self._group = group
        self._start = self._end = self._ends[group - 1] if group else 0

    def _advance(self) -> None:
        first, why = self._damage.get(self._group, (self._ends[-1], ""))
        if self._end >= first:  # not read again for each of the rows that are lost
            raise ValueError(why)
        try:
            batch = next(self._batches, None)
            if batch is None or not len(batch):
                raise ValueError("a row group ends before its last row")
        except PARQUET_ERRORS as error:
            unreadable = _unreadable(error)
            self._damage[self._group] = self._end, str(unreadable)
            raise unreadable from error
        self._start, self._end = self._end, self._end + len(batch)
        column = batch.column(0)
        self._values = column.field(0) if pa.types.is_struct(column.type) else column


def _unreadable(error: Exception) -> Exception:
    """Return what an error of pyarrow means: with an errno it is the disk's, else damage."""
    if isinstance(error, OSError) and error.errno:
        return error
    return ValueError(f"its file is damaged: {error}")

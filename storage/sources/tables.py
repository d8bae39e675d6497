"""Tables as sources: JSONL, CSV, TSV, Parquet, and plain lines of text."""

from __future__ import annotations

import csv
import itertools
import json
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.sources.columns import Columns, show

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20  # of a column; pyarrow's defaults keep all that was read in memory
# pyarrow raises the last three for strings that are not UTF-8, and times that Python cannot hold.
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError)
_FIELD_CHARACTERS = 1 << 24  # the csv module's limit of 131,072 is too small for documents


class _TableSource:
    """The base of all tables: `_located` yields each item with its location in the file."""

    kind = "table"

    def __init__(self, path: str, columns: Columns) -> None:
        self.path = os.path.abspath(path)
        self.folder = os.path.dirname(self.path)
        self.columns = columns
        self.description = f"{self.kind} {readable(self.path)}"

    def __iter__(self) -> Iterator[Item]:
        return (item for _, item in self._located())

    def location(self, position: int) -> str:
        """Return the file and row of the item at a position, counted from 1."""
        location, _ = next(itertools.islice(self._located(), position - 1, None))
        return location

    def _located(self) -> Iterator[tuple[str, Item]]:
        raise NotImplementedError


class JsonlSource(_TableSource):
    """A file with one JSON object per line; blank lines are skipped."""

    kind = "JSONL"

    def _located(self) -> Iterator[tuple[str, Item]]:
        # The first line determines the columns; a later line without them is an error.
        columns = self.columns
        for location, row in json_rows(self.path):
            id_, value = columns.find(row, location=location)
            if columns is self.columns:
                columns = columns.fixed(id_, value)
            yield (
                location,
                columns.item(row[id_], row[value], folder=self.folder, location=location),
            )


class CsvSource(_TableSource):
    """A CSV or TSV file with a header."""

    kind = "CSV"

    def _located(self) -> Iterator[tuple[str, Item]]:
        csv.field_size_limit(_FIELD_CHARACTERS)
        tabs = self.path.lower().endswith(".tsv")
        dialect = csv.excel_tab if tabs else csv.excel
        reader = csv.reader((line for _, line in _lines(self.path)), dialect, strict=True)
        header = self._next(reader)
        if header is None:
            raise SourceError(f"{self.path} is empty: expected a header")
        location = f"{self.path}, header"
        if len(set(header)) < len(header):
            raise SourceError(f"{location}: a column is named twice in {show(header)}")
        id_, value = self.columns.find(header, location=location)
        at_id, at_value = header.index(id_), header.index(value)
        while (row := self._next(reader)) is not None:
            location = f"{self.path}, line {reader.line_num}"
            if not row:
                continue  # a blank line
            if len(row) != len(header):
                raise SourceError(
                    f"{location}: {len(row)} fields, the header has {len(header)}: {show(row)}"
                )
            item = self.columns.item(
                row[at_id], row[at_value], folder=self.folder, location=location
            )
            yield location, item

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            line = getattr(reader, "line_num", 0)
            raise SourceError(f"{self.path}, line {line}: not CSV: {error}") from error


class ParquetSource(_TableSource):
    """A Parquet file, or all of them in a folder and its subfolders, in order."""

    def __init__(self, path: str, columns: Columns) -> None:
        super().__init__(path, columns)
        if os.path.isdir(self.path):
            self.folder = self.path

    kind = "Parquet"

    def _located(self) -> Iterator[tuple[str, Item]]:
        for path in _parquet_files(self.path):
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[tuple[str, Item]]:
        folder, row = os.path.dirname(path), 0
        _check_regular(path)
        try:
            for ids, values in self._batches(path):
                for id_, value in zip(ids, values, strict=True):
                    row += 1
                    location = f"{path}, row {row}"
                    yield location, self.columns.item(id_, value, folder=folder, location=location)
        except _PARQUET_ERRORS as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from error

    def _batches(self, path: str) -> Iterator[tuple[list[object], list[object]]]:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            id_, value = self.columns.find(names, location=path)
            if names.count(id_) > 1 or names.count(value) > 1:
                raise SourceError(f"{path}: a column is named twice in {show(names)}")
            if file.metadata.num_rows == 0:  # older pyarrow cannot iterate over an empty file
                return
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted({id_, value})):
                yield batch.column(id_).to_pylist(), batch.column(value).to_pylist()


class LinesSource(_TableSource):
    """A text file: an image's path per line, or a text, whose id is the number of its line."""

    kind = "text file"

    def __init__(self, path: str, tower: Tower) -> None:
        super().__init__(path, Columns.of(tower, id_column=None, value_column=None))

    def _located(self) -> Iterator[tuple[str, Item]]:
        for number, (location, line) in enumerate(_lines(self.path), 1):
            value = line.rstrip("\r\n")
            id_ = number if self.columns.tower == "txt" else value
            yield location, self.columns.item(id_, value, folder=self.folder, location=location)


def json_rows(path: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the objects of a JSONL file with their locations; blank lines are skipped.

    Raises:
        SourceError: The file cannot be read, or a line is no JSON object.
    """
    for location, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{location}: {show(line)} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SourceError(f"{location}: {show(row)} is not a JSON object")
        yield location, row


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a UTF-8 file, with their line ends, and their locations."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            location = f"{path}, line {number}"
            try:
                yield location, line.removeprefix(_BOM if number == 1 else b"").decode()
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{location}: {show(line)} is not UTF-8: {error.reason}"
                ) from error


def _opened(path: str) -> BinaryIO:
    _check_regular(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error


def _check_regular(path: str) -> None:
    """Refuse a pipe, which would wait for a writer, and a device, which may never end.

    Raises:
        SourceError: The path is one, or cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{path} is a pipe, a socket, a device or a folder: a source is a regular file, which "
            "may be read more than once; write the items into one"
        )


def _parquet_files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, subfolders, names in os.walk(path, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "_")))
        for name in sorted(names):
            if name.lower().endswith(".parquet") and not name.startswith((".", "_")):
                yield os.path.join(folder, name)


def _refuse(error: OSError) -> None:
    raise SourceError(f"cannot list the folder {error.filename}: {error.strerror}") from error

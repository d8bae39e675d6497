"""Tables of text as sources: CSV, TSV, and plain lines."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.filesystem.remote import input_location, parent
from clipfleet.storage.stores.files import is_folder
from clipfleet.storage.tables.columns import Columns, show
from clipfleet.storage.tables.compressed import uncompressed_name
from clipfleet.storage.tables.text_files import text_lines

QUOTINGS = ("csv", "none")

_FIELD_CHARACTERS = 1 << 24  # the csv module's limit of 131,072 is too small for documents
_Fields = Iterator[tuple[str, list[str] | str]]  # the location, and fields or a fault


class TableSource:
    """The base of all tables: `_located` yields each item with its location in the file."""

    kind = "table"

    def __init__(self, path: str, columns: Columns) -> None:
        self.path = input_location(path)
        self.folder = self.path if is_folder(self.path) else parent(self.path)
        self.columns = replace(columns, root=self.folder)
        self.description = f"{self.kind} {readable(self.path)}"
        self.skipped: dict[str, int] = {}

    def __iter__(self) -> Iterator[Item]:
        has_item, first_fault = False, None
        for _, item in self._located():
            has_item = has_item or item.fault is None
            first_fault = first_fault or item.fault
            yield item
        if not has_item:  # the table is empty, or all of it has another form
            reason = f"no row of it is one; {first_fault}" if first_fault else "it is empty"
            raise SourceError(f"{self.description} holds no item: {reason}")

    def location(self, position: int) -> str:
        """Return the file and row of the item at a position, counted from 1."""
        location, _ = next(itertools.islice(self._located(), position - 1, None))
        return location

    def _located(self) -> Iterator[tuple[str, Item]]:
        raise NotImplementedError


class CsvSource(TableSource):
    """A CSV or TSV file with a header.

    `quoting` is "csv": a field in quotation marks may hold separators, lines and doubled marks. Or
    it is "none": a line is a row, and quotation marks are text. By default .tsv files have none.
    """

    kind = "CSV"

    def __init__(
        self, path: str, columns: Columns, *, quoting: str | None, encoding: str | None
    ) -> None:
        super().__init__(path, columns)
        tabs = uncompressed_name(self.path).lower().endswith(".tsv")
        self._separator = "\t" if tabs else ","
        self._quoted = (quoting or ("none" if tabs else "csv")) == "csv"
        self._encoding = encoding

    def _located(self) -> Iterator[tuple[str, Item]]:
        rows = self._quoted_rows() if self._quoted else self._plain_rows()
        location = f"{self.path}, header"
        _, header = next(rows, ("", "the file is empty: expected a header"))
        if isinstance(header, str):
            raise SourceError(f"{location}: {header}")
        if hint := self._quoting_hint(header):
            raise SourceError(f"{location}: names begin with quotation marks: {show(header)}{hint}")
        id_, value = self.columns.find(header, location=location)
        if header.count(id_) > 1 or header.count(value) > 1:
            raise SourceError(f"{location}: a column is named twice in {show(header)}")
        at_id, at_value = header.index(id_), header.index(value)
        for location, fields in rows:
            if isinstance(fields, str):
                yield location, self.columns.faulty(None, fields, location=location)
            elif len(fields) != len(header):
                reason = f"{len(fields)} fields, the header has {len(header)}: {show(fields)}"
                hint = self._quoting_hint(fields)
                yield location, self.columns.faulty(None, reason + hint, location=location)
            else:
                id_, value = fields[at_id], fields[at_value]
                item = self.columns.item(id_, value, folder=self.folder, location=location)
                yield location, item

    def _plain_rows(self) -> _Fields:
        for location, line in text_lines(self.path, self._encoding):
            if row := line.rstrip("\r\n"):  # not a blank line
                yield location, row.split(self._separator)

    def _quoted_rows(self) -> _Fields:
        csv.field_size_limit(_FIELD_CHARACTERS)
        lines = (line for _, line in text_lines(self.path, self._encoding))
        reader = csv.reader(lines, delimiter=self._separator, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                hint = "if quotation marks are text in this file, use --quoting none"
                fault, last = f"not CSV: {error}; {hint}", reader.line_num
                if first < last:  # it may hold many rows
                    raise SourceError(f"{self.path}, lines {first} to {last}: {fault}") from error
                yield f"{self.path}, line {last}", fault
                continue
            if row is None:
                return
            if row:  # not a blank line
                yield f"{self.path}, line {reader.line_num}", row

    def _quoting_hint(self, row: list[str]) -> str:
        if self._quoted or not any(field.startswith('"') for field in row):
            return ""
        return "; if fields are quoted as in CSV, use --quoting csv"


class LinesSource(TableSource):
    """A text file: an image's path per line, or a text, whose id is the number of its line."""

    kind = "text file"

    def __init__(self, path: str, tower: Tower, *, encoding: str | None = None) -> None:
        super().__init__(path, Columns.of(tower, id_column=None, value_column=None))
        self._encoding = encoding

    def _located(self) -> Iterator[tuple[str, Item]]:
        for number, (location, line) in enumerate(text_lines(self.path, self._encoding), 1):
            value = line.rstrip("\r\n")
            id_ = number if self.columns.tower == "txt" else value
            yield location, self.columns.item(id_, value, folder=self.folder, location=location)

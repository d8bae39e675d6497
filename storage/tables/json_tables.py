"""Tables of JSON: an object a line, or an array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.tables.columns import SHOWN_CHARACTERS, Columns, show
from clipfleet.storage.tables.text_files import read_error, text_chunks, text_lines
from clipfleet.storage.tables.text_tables import TableSource

_ELEMENT_CHARACTERS = 1 << 24  # as a field of a CSV file; a longer element is damage
_CUT_OFF = "the array is cut off"
_BLANKS = re.compile(r"[ \t\n\r]*")
_Rows = Iterator[tuple[str, dict[str, object] | str]]  # the location, and fields or a fault


class JsonSource(TableSource):
    """The base of tables of JSON: `_rows` yields the fields of each row, or its fault."""

    def __init__(self, path: str, columns: Columns, *, encoding: str | None = None) -> None:
        super().__init__(path, columns)
        self._encoding = encoding

    def _located(self) -> Iterator[tuple[str, Item]]:
        names: tuple[str, str] | None = None  # the first row's columns are those of the table
        for location, row in self._rows():
            if isinstance(row, str):
                if names is None:
                    raise SourceError(f"{location}: {row}")
                yield location, self.columns.faulty(None, row, location=location)
                continue
            names = names or self.columns.find(row, location=location)
            yield location, self._item(row, *names, location=location)

    def _item(self, fields: dict[str, object], id_: str, value: str, *, location: str) -> Item:
        for name in (id_, value):
            if name not in fields:
                reason = f"no column {name!r} among {show(sorted(fields))}"
                return self.columns.faulty(fields.get(id_), reason, location=location)
        return self.columns.item(fields[id_], fields[value], folder=self.folder, location=location)

    def _rows(self) -> _Rows:
        raise NotImplementedError


class JsonlSource(JsonSource):
    """A file with one JSON object per line; blank lines are skipped."""

    kind = "JSONL"

    def _rows(self) -> _Rows:
        for location, line in text_lines(self.path, self._encoding):
            if not line.strip():
                continue
            try:
                yield location, _object_of(line)
            except ValueError as error:
                yield location, str(error)


class JsonArraySource(JsonSource):
    """A file with one JSON array of objects, of which a few are in memory.

    Its elements are parsed as lines of JSONL are. After damage no element can be found, so damage
    is an error, and never a row.
    """

    kind = "JSON"

    def _rows(self) -> _Rows:
        number, text = 0, _Text(text_chunks(self.path, self._encoding))
        try:
            text.open_array()
            while text.has_element(first=number == 0):
                number += 1
                element = text.element()
                location = f"{self.path}, element {number}"
                if isinstance(element, dict):
                    yield location, element
                else:
                    yield location, f"{show(element)} is not a JSON object"
        except (ValueError, OSError, RecursionError) as error:
            location = f"{self.path}, after element {number}" if number else self.path
            raise SourceError(read_error(location, error, self._encoding)) from error


class _Text:
    """The text of a JSON array, read in chunks; a ValueError says what is wrong with it."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def open_array(self) -> None:
        if (found := self._peek()) != "[":
            raise ValueError(
                f"it begins with {found!r}, and a .json file is one array of objects; if each line "
                "is an object, name it .jsonl"
            )
        self._at += 1

    def has_element(self, *, first: bool) -> bool:
        """Go to the next element, or to the end of the text after the last one."""
        mark = self._peek()
        if first and mark not in ("]", ""):
            return True
        if mark not in (("]",) if first else ("]", ",")):
            raise ValueError(f"expected ',' or ']', found {mark!r}" if mark else _CUT_OFF)
        self._at += 1
        after = self._peek()
        if mark == "]" and after:
            raise ValueError(f"the array has ended, and {after!r} follows")
        return mark == ","

    def element(self) -> object:
        while True:
            value, end, fault = self._parsed()
            if end < len(self._text) or not self._read():  # a number at the end may go on
                break
        if fault:
            shown = show(self._text[self._at : self._at + SHOWN_CHARACTERS])
            raise ValueError(f"{shown} is not JSON: {fault}")
        self._at = end
        return value

    def _parsed(self) -> tuple[object, int, str]:
        """Return the element here and its end, or a fault and how much text would tell more."""
        try:
            return *self._decode(self._text, self._at), ""
        except json.JSONDecodeError as error:
            is_long = len(self._text) - self._at > _ELEMENT_CHARACTERS
            return None, -1 if is_long else len(self._text), error.msg

    def _peek(self) -> str:
        """Return the next character that is no blank, "" at the end."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def _read(self) -> bool:
        """Read as much as is left, so that a long element is parsed a few times only."""
        left, size = self._text[self._at :], 0
        more = []
        while size <= len(left) and (chunk := next(self._chunks, "")):
            more.append(chunk)
            size += len(chunk)
        self._text, self._at = left + "".join(more), 0
        return size > 0


def json_rows(path: str, encoding: str | None = None) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the objects of a JSONL file with their locations; blank lines are skipped.

    Raises:
        SourceError: The file cannot be read, or a line is no JSON object.
    """
    for location, line in text_lines(path, encoding):
        if not line.strip():
            continue
        try:
            yield location, _object_of(line)
        except ValueError as error:
            raise SourceError(f"{location}: {error}") from error


def _object_of(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{show(line)} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{show(row)} is not a JSON object")
    return row

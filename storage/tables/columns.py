"""Columns: from a row of a table, in any format, to an item."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

from pydantic import ValidationError

from clipfleet.architectures import Tower
from clipfleet.errors import MissingColumnError, SourceError
from clipfleet.items import MAX_ID_LENGTH, MAX_TEXT_LENGTH, MAX_URI_LENGTH, Item
from clipfleet.storage.filesystem.locations import has_scheme, readable
from clipfleet.storage.filesystem.remote import joined

ID_COLUMNS = ("id", "text_id", "image_id")
URI_COLUMNS = ("uri", "path", "file", "file_name", "url")
TEXT_COLUMNS = ("text", "caption")

_VALUES: dict[Tower, tuple[str, int]] = {
    "img": ("path", MAX_URI_LENGTH),
    "txt": ("text", MAX_TEXT_LENGTH),
}
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The possible names of a table's columns of ids and values; the first that exists is used."""

    tower: Tower
    ids: tuple[str, ...]
    values: tuple[str, ...]
    id_named: bool  # by the user
    named: bool  # one of both, by the user
    root: str = ""  # the folder of the table, which may be moved

    @classmethod
    def of(cls, tower: Tower, *, id_column: str | None, value_column: str | None) -> Columns:
        defaults = URI_COLUMNS if tower == "img" else TEXT_COLUMNS
        return cls(
            tower=tower,
            ids=(id_column,) if id_column else ID_COLUMNS,
            values=(value_column,) if value_column else defaults,
            id_named=id_column is not None,
            named=id_column is not None or value_column is not None,
        )

    def fixed(self, id_: str, value: str) -> Columns:
        """Return the columns with one possible name each."""
        return replace(self, ids=(id_,), values=(value,), id_named=True)

    def find(self, present: Collection[str], *, location: str) -> tuple[str, str]:
        """Return the names of the id and value columns; images without ids use their paths.

        Raises:
            MissingColumnError: A needed column is not among those present.
        """
        value = _first(self.values, present)
        if value is None:
            raise _missing(self.values, present, location, option=self._value_option)
        return self.find_ids(present, location=location) or value, value

    def find_ids(self, present: Collection[str], *, location: str) -> str | None:
        """Return the name of the id column; None if there is none, and images need none.

        Raises:
            SourceError: It is needed, and is not among those present.
        """
        found = _first(self.ids, present)
        if found is None and (self.id_named or self.tower == "txt"):
            raise _missing(self.ids, present, location, option="--id-column")
        return found

    @property
    def value_named(self) -> bool:
        """Whether the column of values has one possible name, which the user gave."""
        return len(self.values) == 1

    @property
    def _value_option(self) -> str:
        return "--uri-column" if self.tower == "img" else "--text-column"

    def item(self, id_: object, value: object, *, folder: str, location: str) -> Item:
        """Return the item of a row, with a fault if the row is none.

        Relative paths are relative to `folder`. `location` is the row's, below `root`.
        """
        try:
            fields = {self._field: self._value(value, folder)}
            return Item(id=_as_id(id_), **fields)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            return self.faulty(id_, reason, location=location)
        except ValueError as error:
            return self.faulty(id_, str(error), location=location)

    def faulty(self, id_: object, reason: str, *, location: str) -> Item:
        """Return the item of a row that is none; if it has no id, its place below `root` is one."""
        row = readable(location.removeprefix(os.path.join(self.root, "")))
        fault, blank = f"{row}: {reason}", {self._field: ""}
        try:
            return Item(id=_as_id(id_), fault=fault, **blank)
        except ValueError:
            return Item(id=row[-MAX_ID_LENGTH:], fault=fault, **blank)

    @property
    def _field(self) -> str:
        return "uri" if self.tower == "img" else "text"

    def _value(self, value: object, folder: str) -> str:
        word, limit = _VALUES[self.tower]
        if not isinstance(value, str):
            raise ValueError(f"the {word} is {show(value)}, expected a string")
        if len(value) > limit:
            raise ValueError(f"the {word} has {len(value)} characters: at most {limit} are taken")
        if self.tower == "txt":
            return value
        if not value:
            raise ValueError("the path is empty")
        return absolute_uri(value, folder=folder)


def as_id(value: object, *, location: str) -> str:
    """Return an id of a table as a string.

    Raises:
        SourceError: It has a type that no id has, or is empty.
    """
    try:
        return _as_id(value)
    except ValueError as error:
        raise SourceError(f"{location}: {error}") from error


def absolute_uri(uri: str, *, folder: str) -> str:
    """Return a uri with a scheme unchanged, and a path as an absolute path."""
    return uri if has_scheme(uri) else joined(folder, uri)


def _as_id(value: object) -> str:
    """Return an id as a string; numbers but binary fractions, and UUIDs, are ids too.

    Raises:
        ValueError: It has another type, or is empty.
    """
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():  # 7.00 is 7, whatever the column's scale
        return str(int(value)) if value == int(value) else f"{value:f}"
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"the id is {show(value)}, expected a string or a whole number")


def show(value: object) -> str:
    """Return a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _first(names: tuple[str, ...], present: Collection[str]) -> str | None:
    return next((name for name in names if name in present), None)


def _missing(
    names: tuple[str, ...], present: Collection[str], location: str, *, option: str
) -> MissingColumnError:
    wanted = " or ".join(repr(name) for name in names)
    return MissingColumnError(
        f"{location}: no column {wanted} among {show(sorted(present))}; name it with {option}"
    )

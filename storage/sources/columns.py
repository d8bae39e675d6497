"""Columns: from a row of a table, in any format, to an item."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

from pydantic import ValidationError

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import has_scheme

ID_COLUMNS = ("id", "text_id", "image_id")
URI_COLUMNS = ("uri", "path", "file", "file_name", "url")
TEXT_COLUMNS = ("text", "caption")

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The possible names of a table's columns of ids and values; the first that exists is used."""

    tower: Tower
    ids: tuple[str, ...]
    values: tuple[str, ...]
    id_named: bool  # by the user
    named: bool  # one of both, by the user

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
            SourceError: A needed column is not among those present.
        """
        value = _first(self.values, present)
        if value is None:
            raise _missing(self.values, present, location, option=self._value_option)
        id_ = _first(self.ids, present)
        if id_ is None and (self.id_named or self.tower == "txt"):
            raise _missing(self.ids, present, location, option="--id-column")
        return id_ or value, value

    @property
    def _value_option(self) -> str:
        return "--uri-column" if self.tower == "img" else "--text-column"

    def item(self, id_: object, value: object, *, folder: str, location: str) -> Item:
        """Return the item of a row; relative paths are relative to `folder`.

        Raises:
            SourceError: The id or the value has another type, is empty, or is too long.
        """
        if not isinstance(value, str):
            raise SourceError(f"{location}: {self._word} is {show(value)}, expected a string")
        if self.tower == "img":
            fields = {"uri": absolute_uri(value, folder=folder, location=location)}
        else:
            fields = {"text": value}
        identifier = as_id(id_, location=location)
        try:
            return Item(id=identifier, **fields)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise SourceError(f"{location}: {show(identifier)} is no item: {reason}") from error

    @property
    def _word(self) -> str:
        return "the path" if self.tower == "img" else "the text"


def as_id(value: object, *, location: str) -> str:
    """Return an id as a string; numbers but binary fractions, and UUIDs, are ids too.

    Raises:
        SourceError: It has another type, or is empty.
    """
    if isinstance(value, int | UUID) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():  # 7.00 is 7, whatever the column's scale
        return str(int(value)) if value == int(value) else f"{value:f}"
    if isinstance(value, str) and value:
        return value
    raise SourceError(f"{location}: the id is {show(value)}, expected a string or a whole number")


def absolute_uri(uri: str, *, folder: str, location: str) -> str:
    """Return a uri with a scheme unchanged, and a path as an absolute path.

    Raises:
        SourceError: It is empty.
    """
    if not uri:
        raise SourceError(f"{location}: the path is empty")
    return uri if has_scheme(uri) else os.path.normpath(os.path.join(folder, uri))


def show(value: object) -> str:
    """Return a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _first(names: tuple[str, ...], present: Collection[str]) -> str | None:
    return next((name for name in names if name in present), None)


def _missing(
    names: tuple[str, ...], present: Collection[str], location: str, *, option: str
) -> SourceError:
    wanted = " or ".join(repr(name) for name in names)
    return SourceError(
        f"{location}: no column {wanted} among {show(sorted(present))}; name it with {option}"
    )

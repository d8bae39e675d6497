"""Arrivals: items as they come by themselves, in JSON, right or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipfleet.errors import MessageError
from clipfleet.jobs import Item
from clipfleet.models import Tower

_SHOWN_LENGTH = 200  # characters of a wrong item in its message


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """An item as it came; one with a `fault` becomes an error row."""

    item: Item
    fault: str = ""


def read_arrival(raw: Any, tower: Tower) -> Arrival:
    """Return the item that JSON describes; a wrong one with its fault.

    Raises:
        MessageError: It has no id that could stand in the errors table.
    """
    field = "uri" if tower == "img" else "text"
    expected = f'expected {{"id": …, "{field}": …}}, both strings'
    fault = f"{expected}, not {_short(raw)}"
    try:
        blank = _checked(Item(id=raw["id"], **{field: ""}))
    except (LookupError, TypeError, ValueError) as error:
        raise MessageError(f"an item has no usable id: {fault}") from error
    if raw.keys() != {"id", field}:
        return Arrival(item=blank, fault=fault)
    try:
        return Arrival(item=_checked(Item(**raw)))
    except ValueError:
        return Arrival(item=blank, fault=fault)


def _checked(item: Item) -> Item:
    """Return an item whose strings are text: JSON can hold half a surrogate pair.

    Raises:
        UnicodeEncodeError: One is not, and could not be written.
    """
    for value in (item.id, item.uri or "", item.text or ""):
        value.encode()
    return item


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"

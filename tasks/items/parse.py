"""Arrivals: items as they come by themselves, in JSON, right or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clipfleet.architectures import Tower
from clipfleet.errors import MessageError
from clipfleet.items import MAX_TEXT_LENGTH, MAX_URI_LENGTH, Item
from clipfleet.validation import shortened

_SHOWN_LENGTH = 200  # characters of a wrong item in its message
_LIMITS: dict[Tower, int] = {"img": MAX_URI_LENGTH, "txt": MAX_TEXT_LENGTH}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """An item as it came; one with a `fault` becomes an error row."""

    item: Item
    fault: str = ""


def read_arrivals(items: Iterable[Any], tower: Tower) -> tuple[list[Arrival], list[str]]:
    """Return the items that JSON describes, and what is wrong with those without a usable id."""
    arrivals, faults = [], []
    for raw in items:
        try:
            arrivals.append(read_arrival(raw, tower))
        except MessageError as error:  # noqa: PERF203 - one wrong item spoils no other
            faults.append(str(error))
    return arrivals, faults


def read_arrival(raw: Any, tower: Tower) -> Arrival:
    """Return the item that JSON describes; a wrong one with its fault.

    Raises:
        MessageError: It has no id that could stand in the errors table.
    """
    field = "uri" if tower == "img" else "text"
    try:
        blank = _checked(Item(id=raw["id"], **{field: ""}))
    except (LookupError, TypeError, ValueError) as error:
        raise MessageError(f"an item has no usable id: {_fault(raw, field)}") from error
    if raw.keys() != {"id", field}:
        return Arrival(item=blank, fault=_fault(raw, field))
    if isinstance(raw[field], str) and len(raw[field]) > _LIMITS[tower]:
        length = f"{field} has {len(raw[field])} characters"
        return Arrival(item=blank, fault=f"{length}: at most {_LIMITS[tower]} are taken")
    try:
        return Arrival(item=_checked(Item(**raw)))
    except ValueError:
        return Arrival(item=blank, fault=_fault(raw, field))


def _fault(raw: Any, field: str) -> str:
    expected = f'expected {{"id": …, "{field}": …}}, both strings'
    return f"{expected}, not {shortened(raw, _SHOWN_LENGTH)}"


def _checked(item: Item) -> Item:
    """Return an item whose strings are text: JSON can hold half a surrogate pair.

    Raises:
        UnicodeEncodeError: One is not, and could not be written.
    """
    for value in (item.id, item.uri or "", item.text or ""):
        value.encode()
    return item

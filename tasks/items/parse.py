"""Parsing single items from the JSON of their messages, valid or not."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from clipfleet.architectures import Tower
from clipfleet.errors import MessageError
from clipfleet.items import MAX_TEXT_LENGTH, MAX_URI_LENGTH, Item
from clipfleet.validation import shortened

_SHOWN_LENGTH = 200  # characters of a wrong item in its error
_LIMITS: dict[Tower, int] = {"img": MAX_URI_LENGTH, "txt": MAX_TEXT_LENGTH}


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleItem:
    """An item of a message; with a `fault`, it becomes an error row."""

    item: Item
    fault: str = ""


def read_single_items(items: Iterable[Any], tower: Tower) -> tuple[list[SingleItem], list[str]]:
    """Return the items of a message, and the faults of those without a usable id."""
    single_items, faults = [], []
    for raw in items:
        try:
            single_items.append(read_single_item(raw, tower))
        except MessageError as error:  # noqa: PERF203 - of this item only
            faults.append(str(error))
    return single_items, faults


def read_single_item(raw: Any, tower: Tower) -> SingleItem:
    """Return one item of a message; a wrong one with its fault.

    Raises:
        MessageError: It has no id that the errors table could hold.
    """
    field = "uri" if tower == "img" else "text"
    raw = _with_text_id(raw)
    try:
        blank = _checked(Item(id=raw["id"], **{field: ""}))
    except (LookupError, TypeError, ValueError) as error:
        raise MessageError(f"an item has no usable id: {_fault(raw, field)}") from error
    if raw.keys() != {"id", field}:
        return SingleItem(item=blank, fault=_fault(raw, field))
    if isinstance(raw[field], str) and len(raw[field]) > _LIMITS[tower]:
        length = f"{field} has {len(raw[field])} characters"
        return SingleItem(item=blank, fault=f"{length}: at most {_LIMITS[tower]} are taken")
    try:
        return SingleItem(item=_checked(Item(**raw)))
    except ValueError:
        return SingleItem(item=blank, fault=_fault(raw, field))


def _with_text_id(raw: Any) -> Any:
    """Return an item whose id is a string: a whole number is an id too, as in tables."""
    with suppress(LookupError, TypeError, ValueError):  # it has another form, or too many digits
        if isinstance(raw["id"], int) and not isinstance(raw["id"], bool):
            return {**raw, "id": str(raw["id"])}
    return raw


def _fault(raw: Any, field: str) -> str:
    expected = f'expected {{"id": …, "{field}": …}}, both strings'
    return f"{expected}, not {shortened(raw, _SHOWN_LENGTH)}"


def _checked(item: Item) -> Item:
    """Check that an item's strings can be encoded: JSON can hold half a surrogate pair.

    Raises:
        UnicodeEncodeError: One cannot, and could not be written.
    """
    for value in (item.id, item.uri or "", item.text or ""):
        value.encode()
    return item

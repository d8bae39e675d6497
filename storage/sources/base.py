"""Sources of items: each yields its items as a stream, and holds few of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.validation import problems


class Source(Protocol):
    """A stream of items; while the files do not change, each iteration yields the same items."""

    description: str  # for messages: kind and location

    @property
    def folder(self) -> str | None:
        """The folder where relative paths begin, an absolute path; None for items in memory."""
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """The files that were left out, counted by extension or kind; filled by an iteration."""
        return {}

    def __iter__(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            SourceError: Something cannot be read; the message names file, row and value.
        """
        ...

    def location(self, position: int) -> str:
        """Return the location of the item at a position, counted from 1, for messages."""
        ...


class DerivedSource:
    """The base of a source over another one, whose items a subclass yields, checked or changed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.description = source.description

    @property
    def folder(self) -> str | None:
        """The folder of the other source."""
        return self.source.folder

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the other source left out."""
        return self.source.skipped

    def location(self, position: int) -> str:
        """Return the location of an item in the other source."""
        return self.source.location(position)


class ListSource:
    """A source of items in memory."""

    def __init__(self, items: Sequence[Item], description: str = "a list of items") -> None:
        self.description = description
        self.folder = None
        self.skipped: dict[str, int] = {}
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def location(self, position: int) -> str:
        return f"item {position}"


def items_source(items: Iterable[Mapping[str, str]], tower: Tower) -> ListSource:
    """Return the source of items in memory: `{"id", "uri"}` for images, `{"id", "text"}` for texts.

    Raises:
        SourceError: An item has another form; the message names its position and value.
    """
    return ListSource([_item(fields, n, tower) for n, fields in enumerate(items, start=1)])


def _item(fields: Mapping[str, str], position: int, tower: Tower) -> Item:
    value = "uri" if tower == "img" else "text"
    try:
        if set(fields) != {"id", value}:
            raise ValueError(f"expected id and {value}")
        return Item(**fields)
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"item {position} is not an item of the {tower} tower ({dict(fields)!r:.200}): "
            f"{problems(error)}"
        ) from error

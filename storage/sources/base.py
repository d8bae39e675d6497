"""Sources of items: each yields its items as a stream, and holds few of them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import local_path
from clipfleet.storage.sources.columns import Columns
from clipfleet.storage.sources.folder import FolderSource
from clipfleet.storage.sources.skipped import NO_RULES, FolderRules
from clipfleet.storage.sources.tables import CsvSource, JsonlSource, LinesSource, ParquetSource
from clipfleet.validation import problems

_SUPPORTED = (
    "a folder of images, a folder of .parquet files, or a .jsonl, .ndjson, .csv, .tsv, .parquet "
    "or .txt file"
)


class Source(Protocol):
    """A stream of items; while the files do not change, each iteration yields the same items."""

    description: str  # for messages: kind and location

    @property
    def folder(self) -> str | None:
        """The folder where relative paths begin, an absolute path; None for items in memory."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            SourceError: Something cannot be read; the message names file, row and value.
        """
        ...

    def location(self, position: int) -> str:
        """Return the location of the item at a position, counted from 1, for messages."""
        ...


class ListSource:
    """A source of items in memory."""

    def __init__(self, items: Sequence[Item], description: str = "a list of items") -> None:
        self.description = description
        self.folder = None
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


def open_source(
    location: str,
    rules: FolderRules = NO_RULES,
    /,
    *,
    tower: Tower,
    id_column: str | None = None,
    uri_column: str | None = None,
    text_column: str | None = None,
) -> Source:
    """Return the source at a path: a folder, or a JSONL, CSV, TSV, Parquet or text file.

    `rules` choose the files of a folder of images.

    Default columns, in this order: id, text_id or image_id for the id; uri, path, file or
    file_name for the image; text or caption for the text.

    Raises:
        SourceError: The path does not exist, or is no source of this tower's items.
        UsageError: The location has a scheme that is not supported.
    """
    path = local_path(location)
    value = uri_column if tower == "img" else text_column
    unused, flag = (text_column, "text") if tower == "img" else (uri_column, "uri")
    if unused is not None:
        raise SourceError(
            f"column {unused!r} was named for the {flag}, and the {tower} tower reads none: leave "
            f"the {flag} column away, or choose the other tower"
        )
    columns = Columns.of(tower, id_column=id_column, value_column=value)
    opened = _open_path(path, tower, columns, rules)
    if rules != NO_RULES and not isinstance(opened, FolderSource):
        raise SourceError(
            f"{path} is no folder of images: leave --include, --exclude and --fail-on-skipped out"
        )
    return opened


def skipped_of(source: Source) -> Mapping[str, int]:
    """Return the numbers of files that a source has skipped, by their kinds, while it is read."""
    return source.skipped if isinstance(source, FolderSource) else {}


def _open_path(path: str, tower: Tower, columns: Columns, rules: FolderRules) -> Source:
    if os.path.isdir(path):
        return _open_folder(path, tower, columns, rules)
    if not os.path.exists(path):
        raise SourceError(f"no source at {path}: nothing is there")
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".jsonl", ".ndjson"):
        return JsonlSource(path, columns)
    if suffix in (".csv", ".tsv"):
        return CsvSource(path, columns)
    if suffix == ".parquet":
        return ParquetSource(path, columns)
    if suffix == ".txt":
        return LinesSource(path, tower)
    raise SourceError(f"{path} is no source that is known by its name: expected {_SUPPORTED}")


def _open_folder(path: str, tower: Tower, columns: Columns, rules: FolderRules) -> Source:
    """Read Parquet files for texts, if columns are named, or if there are no other files."""
    try:
        suffixes = {os.path.splitext(name)[1].lower() for name in os.listdir(path)}
    except OSError as error:
        raise SourceError(f"cannot list the folder {path}: {error.strerror}") from error
    if ".parquet" in suffixes and (tower == "txt" or columns.named or suffixes == {".parquet"}):
        return ParquetSource(path, columns)
    if tower == "txt":
        raise SourceError(
            f"{path} is a folder without .parquet files, and the txt tower reads texts: name a "
            ".jsonl, .csv, .tsv, .parquet or .txt file"
        )
    return FolderSource(path, rules)

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
from clipfleet.storage.sources.parquet import ParquetSource
from clipfleet.storage.sources.skipped import NO_RULES, FolderRules
from clipfleet.storage.sources.tables import QUOTINGS, CsvSource, JsonlSource, LinesSource
from clipfleet.storage.sources.text_files import check_encoding
from clipfleet.validation import problems

_JSON_LINES = (".jsonl", ".ndjson")
_SEPARATED = (".csv", ".tsv")
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


class DerivedSource:
    """The base of a source over another one, whose items a subclass yields, checked or changed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.description = source.description

    @property
    def folder(self) -> str | None:
        """The folder of the other source."""
        return self.source.folder

    def location(self, position: int) -> str:
        """Return the location of an item in the other source."""
        return self.source.location(position)


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
    quoting: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Return the source at a path: a folder, or a JSONL, CSV, TSV, Parquet or text file.

    Default columns, in this order: id, text_id or image_id for the id; uri, path, file, file_name
    or url for the image; text or caption for the text. `rules` choose the files of a folder of
    images. `quoting` is as in `CsvSource`, and the `encoding` of text files is UTF-8 by default.

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
    opened = _open_path(path, tower, columns, rules, quoting=quoting, encoding=encoding)
    if rules != NO_RULES and not isinstance(opened, FolderSource):
        raise SourceError(
            f"{path} is no folder of images: leave --include, --exclude and --fail-on-skipped out"
        )
    return opened


def skipped_of(source: Source) -> Mapping[str, int]:
    """Return the numbers of files that a source has skipped, by their kinds, while it is read."""
    if isinstance(source, DerivedSource):
        return skipped_of(source.source)
    return source.skipped if isinstance(source, FolderSource) else {}


def _open_path(
    path: str,
    tower: Tower,
    columns: Columns,
    rules: FolderRules,
    *,
    quoting: str | None,
    encoding: str | None,
) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    _check_form(path, suffix, quoting, encoding)
    if os.path.isdir(path):
        return _open_folder(path, tower, columns, rules)
    if not os.path.exists(path):
        raise SourceError(f"no source at {path}: nothing is there")
    if suffix in _JSON_LINES:
        return JsonlSource(path, columns, encoding=encoding)
    if suffix in _SEPARATED:
        return CsvSource(path, columns, quoting=quoting, encoding=encoding)
    if suffix == ".parquet":
        return ParquetSource(path, columns)
    if suffix == ".txt":
        return LinesSource(path, tower, encoding=encoding)
    raise SourceError(f"{path} is no source that is known by its name: expected {_SUPPORTED}")


def _check_form(path: str, suffix: str, quoting: str | None, encoding: str | None) -> None:
    """Refuse a quoting or an encoding that is not known, or that the source cannot have."""
    if quoting not in (None, *QUOTINGS):
        raise SourceError(f"quoting {quoting!r} is not known: it is {' or '.join(QUOTINGS)}")
    if encoding is not None:
        check_encoding(encoding)
    is_file = not os.path.isdir(path)
    if quoting is not None and not (is_file and suffix in _SEPARATED):
        raise SourceError(f"{path} is no CSV or TSV file: leave the quoting out")
    if encoding is not None and not (is_file and suffix in (*_JSON_LINES, *_SEPARATED, ".txt")):
        raise SourceError(f"{path} is no file of text: leave the encoding out")


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

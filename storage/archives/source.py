"""The base of sources of archives, with what is the same for tars and zip files."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Collection, Iterator
from functools import lru_cache

from pydantic import ValidationError

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.items import MAX_ID_LENGTH, Item
from clipfleet.storage.archives.files import Archive, Archives
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.skipped import (
    FileFilter,
    FolderRules,
    count_skipped,
    counted,
    unread,
)

Located = Iterator[tuple[str, Item]]  # items with their places, for messages


class ArchiveSource:
    """The base of all archives: `_read` yields the items of one, each with its location.

    What cannot be read of an archive is an item with a fault. After an iteration, `skipped` counts
    the files that were no items, as for folders; each iteration fills the same mapping.
    """

    kind = "archive"
    endings: Collection[str] = ()

    def __init__(self, path: str, tower: Tower, rules: FolderRules) -> None:
        self.tower = tower
        self.skipped: dict[str, int] = {}
        self.filter = FileFilter(rules)
        self.description = f"{self.kind} {readable(path)}"
        self._rules = rules
        self._archives = Archives(path, self.endings, self.filter)
        self.folder = self._archives.folder
        self._folder_kind = lru_cache(maxsize=1024)(self._left_out)

    def __iter__(self) -> Iterator[Item]:
        has_item, first_fault = False, None
        self.skipped.clear()
        for _, item in self._located(self.skipped):
            has_item = has_item or item.fault is None
            first_fault = first_fault or item.fault
            yield item
        skipped = f"; skipped: {counted(self.skipped)}" if self.skipped else ""
        if not has_item:
            word = "picture" if self.tower == "img" else "caption"
            reason = f": {first_fault}" if first_fault else ""
            raise SourceError(f"{self.description} holds no {word}{reason}{skipped}")
        files = unread(self.skipped)
        if files and self._rules.fail_on_skipped:
            raise SourceError(
                f"{self.description} has files that are not read ({counted(files)}): exclude them "
                "(--exclude), or leave --fail-on-skipped out. Nothing was planned"
            )

    def location(self, position: int) -> str:
        """Return the archive and the name of the item at a position, counted from 1."""
        location, _ = next(itertools.islice(self._located({}), position - 1, None))
        return location

    def _located(self, skipped: dict[str, int]) -> Located:
        try:
            for archive in self._archives.read(skipped):
                yield from self._items_of(archive, skipped)
        except OSError as error:  # of a store that lists or looks for archives
            raise SourceError(f"cannot read {error.filename}: {error.strerror}") from error

    def _items_of(self, archive: Archive, skipped: dict[str, int]) -> Located:
        try:
            yield from self._read(archive, skipped)
        except OSError as error:
            reason = error.strerror or error
            raise SourceError(f"cannot read {readable(archive.path)}: {reason}") from error

    def _read(self, archive: Archive, skipped: dict[str, int]) -> Located:
        raise NotImplementedError

    def is_left_out(self, archive: Archive, inner: str, skipped: dict[str, int]) -> bool:
        """Return whether the rules leave out the file at a path in an archive, and count it."""
        kind = self._folder_kind(archive.name, posixpath.dirname(inner)) or self.filter.left_out(
            posixpath.basename(inner), f"{archive.name}/{inner}"
        )
        if kind:
            count_skipped(skipped, kind)
        return bool(kind)

    def is_picture(self, archive: Archive, inner: str) -> bool:
        """Return whether the file at a path in an archive is read as a picture."""
        path = f"{archive.name}/{inner}"
        return self.filter.is_item(posixpath.basename(inner), path, is_folder=False)

    def _left_out(self, archive: str, folder: str) -> str:
        """Return the kind of a folder in an archive that is left out, "" for any other."""
        if not folder:
            return ""
        above, name = posixpath.split(folder)
        return self._folder_kind(archive, above) or self.filter.left_out(
            name, f"{archive}/{folder}"
        )


def inner_path(name: str) -> str:
    """Return the path that a file has in its archive, as text, without `./` or `/` before it."""
    path = posixpath.normpath(name).lstrip("/")
    return path if path.isascii() else readable(path)


def item_of(id_: str, value: str, tower: Tower, location: str) -> Item:
    """Return an item, with a fault if it cannot be one."""
    try:
        return Item(id=id_, uri=value) if tower == "img" else Item(id=id_, text=value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        return faulty(id_, f"{location}: {reason}", tower)


def faulty(id_: str, fault: str, tower: Tower) -> Item:
    """Return the item in place of what cannot be read."""
    id_ = id_[-MAX_ID_LENGTH:]
    return (
        Item(id=id_, uri="", fault=fault) if tower == "img" else Item(id=id_, text="", fault=fault)
    )

"""A folder of images, with all of its subfolders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from pydantic import ValidationError

from clipfleet.errors import SourceError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.skipped import (
    NO_RULES,
    FileFilter,
    FolderRules,
    count_skipped,
    counted,
    unread,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    path: str
    name: str
    is_folder: bool
    is_item: bool


class FolderSource:
    """The images under a folder, by their extension, in the order of their paths.

    The id is the path relative to the folder. If a name is not UTF-8, its invalid bytes become
    `\\xff` in the id, and the uri is a percent-encoded file:// URL. Hidden files and folders, and
    those of systems, are skipped. `rules` may choose other files. Links are followed, but not a
    link to a folder above it. A folder named like an image and a broken link are items, too; they
    fail later.

    After an iteration, `skipped` counts the files that were no items, by their extensions and the
    kinds of `clipfleet.storage.skipped`. Each iteration fills the same mapping.
    """

    def __init__(self, root: str, rules: FolderRules = NO_RULES) -> None:
        self.root = os.path.abspath(root)
        self.folder = self.root
        self.description = f"folder {readable(self.root)}"
        self.skipped: dict[str, int] = {}
        self._rules = rules
        self._filter = FileFilter(rules)
        self._prefix = len(os.path.join(self.root, ""))

    def __iter__(self) -> Iterator[Item]:
        found = False
        self.skipped.clear()
        for path in self._walk(self.skipped):
            found = True
            yield _item(path, path[self._prefix :])
        if not found:
            raise self._empty_error()
        files = unread(self.skipped)
        if files and self._rules.fail_on_skipped:
            raise SourceError(
                f"{self.description} has files that are not read as images ({counted(files)}): "
                "exclude them (--exclude), include them with the images (--include), or leave "
                "--fail-on-skipped out. Nothing was planned"
            )

    def location(self, position: int) -> str:
        """Return the path of the item at a position, counted from 1."""
        path = next(itertools.islice(self._walk({}), position - 1, None), "")
        return repr(path)

    def _empty_error(self) -> SourceError:
        skipped = f"; skipped: {counted(self.skipped)}" if self.skipped else ""
        if self._rules.include:
            globs = ", ".join(self._rules.include)
            return SourceError(f"{self.description} holds no file that matches {globs}{skipped}")
        return SourceError(
            f"{self.description} holds no image: no name in it ends in one of "
            f"{', '.join(sorted(IMAGE_EXTENSIONS))}{skipped}"
        )

    def _walk(self, skipped: dict[str, int]) -> Iterator[str]:
        """Yield the paths of the items, and count the other files in `skipped`.

        Deep trees need a stack, not recursion.
        """
        above = [_identity(self.root)]
        stack = [iter(self._entries(self.root, skipped))]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                above.pop()
                continue
            if entry.is_item:
                yield entry.path
            if entry.is_folder:
                identity = _identity(entry.path)
                if identity not in above:
                    above.append(identity)
                    stack.append(iter(self._entries(entry.path, skipped)))

    def _entries(self, folder: str, skipped: dict[str, int]) -> list[_Entry]:
        """Return the subfolders and items of one folder, sorted by name."""
        entries = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    if isinstance(chosen := self._chosen(entry), _Entry):
                        entries.append(chosen)
                    else:
                        count_skipped(skipped, chosen)
        except OSError as error:
            raise SourceError(
                f"cannot list the folder {readable(folder)}: {error.strerror}; make it readable, "
                "or leave it out (--exclude)"
            ) from error
        return sorted(entries, key=lambda entry: entry.name)

    def _chosen(self, entry: os.DirEntry[str]) -> _Entry | str:
        """Return a subfolder or an item, or the kind of a file that is neither."""
        name, path = entry.name, entry.path[self._prefix :]
        if kind := self._filter.left_out(name, path):
            return kind
        is_folder = _is_folder(entry)
        is_item = self._filter.is_item(name, path, is_folder=is_folder)
        if is_folder or is_item:
            return _Entry(path=entry.path, name=name, is_folder=is_folder, is_item=is_item)
        return self._filter.kind(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself or into a closed folder: an item that fails later
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise SourceError(f"cannot read the folder {readable(folder)}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _item(path: str, relative: str) -> Item:
    uri = path if _is_unicode(path) else "file://" + quote(os.fsencode(path))
    try:
        return Item(id=readable(relative), uri=uri)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SourceError(f"{readable(path)} cannot be an item: {reason}") from error


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # os.fsdecode makes surrogates of bytes that are not UTF-8
        return False
    return True

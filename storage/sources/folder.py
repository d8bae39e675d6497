"""A folder of images, with all of its subfolders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from urllib.parse import quote

from pydantic import ValidationError

from clipfleet.errors import SourceError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.filesystem.remote import input_location, is_web, key_text
from clipfleet.storage.skipped import (
    NO_RULES,
    FileFilter,
    FolderRules,
    counted,
    unread,
)
from clipfleet.storage.walk import FileWalk


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
        self.root = input_location(root)
        self.folder = self.root
        self.description = f"folder {readable(self.root)}"
        self.skipped: dict[str, int] = {}
        self._rules = rules
        self._files = FileWalk(self.root, FileFilter(rules))
        self._prefix = len(os.path.join(self.root, ""))

    def __iter__(self) -> Iterator[Item]:
        found, is_encoded = False, is_web(self.root)
        self.skipped.clear()
        for path in self._files.paths(self.skipped):
            found = True
            relative = path[self._prefix :]
            yield _item(path, key_text(relative, self.root) if is_encoded else relative)
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
        path = next(itertools.islice(self._files.paths({}), position - 1, None), "")
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

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

# Folders of file systems at their roots, closed to most users.
_SYSTEM_FOLDERS = {"lost+found", "$RECYCLE.BIN", "System Volume Information"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    path: str
    name: str
    is_folder: bool


class FolderSource:
    """The images under a folder, by their extension, in the order of their paths.

    The id is the path relative to the folder. If a name is not UTF-8, its invalid bytes become
    `\\xff` in the id, and the uri is a percent-encoded file:// URL. Hidden files and folders are
    skipped. Links are followed, but not a link to a folder above it. A folder named like an image
    and a broken link are items, too; they fail later.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.folder = self.root
        self.description = f"folder {readable(self.root)}"

    def __iter__(self) -> Iterator[Item]:
        prefix = len(os.path.join(self.root, ""))
        found = False
        for path in _walk(self.root):
            found = True
            yield _item(path, path[prefix:])
        if not found:
            raise SourceError(
                f"{self.description} holds no image: no name in it ends in one of "
                f"{', '.join(sorted(IMAGE_EXTENSIONS))}"
            )

    def location(self, position: int) -> str:
        """Return the path of the item at a position, counted from 1."""
        path = next(itertools.islice(_walk(self.root), position - 1, None), "")
        return repr(path)


def _walk(root: str) -> Iterator[str]:
    """Yield the paths of the images below a folder. (Deep trees need a stack, not recursion.)"""
    above = [_identity(root)]
    stack = [iter(_entries(root))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            above.pop()
            continue
        if _is_image(entry.name):
            yield entry.path
        if entry.is_folder:
            identity = _identity(entry.path)
            if identity not in above:
                above.append(identity)
                stack.append(iter(_entries(entry.path)))


def _entries(folder: str) -> list[_Entry]:
    """Return the subfolders and images of one folder, sorted by name."""
    try:
        with os.scandir(folder) as found:
            entries = [
                _Entry(path=entry.path, name=entry.name, is_folder=is_folder)
                for entry in found
                if not entry.name.startswith(".")
                and ((is_folder := _is_folder(entry)) or _is_image(entry.name))
                and entry.name not in _SYSTEM_FOLDERS
            ]
    except OSError as error:
        raise SourceError(
            f"cannot list the folder {readable(folder)}: {error.strerror}; make it readable, or "
            "leave it out of the source"
        ) from error
    return sorted(entries, key=lambda entry: entry.name)


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


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


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

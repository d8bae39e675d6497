"""A folder's files, with those of all of its subfolders, in the order of their paths."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from clipfleet.errors import SourceError
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.filesystem.remote import is_remote, key_text
from clipfleet.storage.skipped import FileFilter, count_skipped
from clipfleet.storage.stores.files import files_below


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    path: str
    name: str
    is_folder: bool
    is_item: bool


class FileWalk:
    """The files below a folder that a filter chooses.

    Links are followed, but not a link to a folder above it. The files of a remote folder have the
    order of their store, which is that of whole keys.
    """

    def __init__(self, root: str, chosen: FileFilter) -> None:
        self._root = root
        self._filter = chosen
        self._prefix = len(os.path.join(root, ""))

    def paths(self, skipped: dict[str, int]) -> Iterator[str]:
        """Yield the paths of the chosen files, and count the other files in `skipped`.

        Raises:
            SourceError: A folder cannot be listed.
        """
        if is_remote(self._root):
            try:
                yield from self._remote(skipped)
            except OSError as error:
                raise SourceError(f"cannot list {error.filename}: {error.strerror}") from error
        else:
            yield from self._local(skipped)

    def _remote(self, skipped: dict[str, int]) -> Iterator[str]:
        """Yield remote files: their keys are listed without folders, which are only names."""
        left_out: set[str] = set()  # folders, each counted once, as on a disk

        @lru_cache(maxsize=1024)
        def folder_kind(folder: str) -> str:
            if not folder:
                return ""
            above, name = posixpath.split(folder)
            if kind := folder_kind(above):
                return kind
            kind = self._filter.left_out(name, folder)
            if kind and folder not in left_out:
                left_out.add(folder)
                count_skipped(skipped, kind)
            return kind

        for key in files_below(self._root):
            path = key_text(key, self._root)
            folder, name = posixpath.split(path)
            if folder_kind(folder):
                continue
            if kind := self._filter.left_out(name, path):
                count_skipped(skipped, kind)
            elif self._filter.is_item(name, path, is_folder=False):
                yield f"{self._root}/{key}"
            else:
                count_skipped(skipped, self._filter.kind(name))

    def _local(self, skipped: dict[str, int]) -> Iterator[str]:
        """Yield files of a disk. Deep trees need a stack, not recursion."""
        above = [_identity(self._root)]
        stack = [iter(self._entries(self._root, skipped))]
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

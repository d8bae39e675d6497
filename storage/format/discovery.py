"""The search for datasets in a folder, at a bounded cost."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfleet.errors import StorageError
from clipfleet.storage.filesystem.locations import absolute, below, in_object_store
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S, open_object_store
from clipfleet.storage.format.dataset_info import INFO_PATH

if TYPE_CHECKING:
    from clipfleet.storage.filesystem.s3 import ObjectFilesystem

MAX_DEPTH = 3  # levels below the folder
MAX_ENTRIES = 20_000  # names to read: pictures may lie beside the datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The roots of the datasets in a folder; `cut` says that not all names were read."""

    roots: list[str]
    cut: bool


def find_datasets(
    folder: str, *, max_entries: int = MAX_ENTRIES, store_timeout_s: float = STORE_TIMEOUT_S
) -> Found:
    """Return the datasets at a folder and up to three levels below it.

    Hidden folders, symbolic links and the contents of datasets are skipped. In an object store
    one request returns a thousand names, and all of them are read.

    Raises:
        StorageError: The folder cannot be read. On a disk, an unreadable folder below it is
            skipped; in an object store it is an error, or a store that is down would look empty.
    """
    if in_object_store(folder):
        store = open_object_store(absolute(folder), timeout_s=store_timeout_s)
        return Found(roots=sorted(_find_in_store(store)), cut=False)
    roots: list[str] = []
    folders = deque([(os.path.abspath(folder), 0)])  # breadth first
    entries = 0
    while folders:
        path, depth = folders.popleft()
        if os.path.isfile(os.path.join(path, INFO_PATH)):
            roots.append(path)
            continue
        if depth == MAX_DEPTH:
            continue
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    entries += 1
                    if entries > max_entries:
                        return Found(roots=sorted(roots), cut=True)
                    if entry.name[0] != "." and entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, depth + 1))
        except OSError as error:
            if depth == 0:
                raise StorageError(f"cannot list {path}: {error.strerror}") from error
    return Found(roots=sorted(roots), cut=False)


def _find_in_store(store: ObjectFilesystem, folder: str = "", depth: int = 0) -> Iterator[str]:
    if store.exists(f"{folder}{INFO_PATH}"):
        yield below(store.root, folder).rstrip("/")
    elif depth < MAX_DEPTH:
        for name in store.folders(folder):
            if name[0] != ".":
                yield from _find_in_store(store, f"{folder}{name}/", depth + 1)

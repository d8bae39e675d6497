"""Finding the datasets in a folder, at a bounded cost."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from clipfleet.errors import StorageError
from storage.dataset import INFO_PATH

MAX_DEPTH = 3  # levels below the folder
MAX_ENTRIES = 20_000  # names read: somebody may keep his pictures beside the datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The roots of the datasets in a folder; `cut` if there were too many names to read all."""

    roots: list[str]
    cut: bool


def find_datasets(folder: str, *, max_entries: int = MAX_ENTRIES) -> Found:
    """Return the datasets in a folder and up to three levels below it, the folder itself included.

    Hidden folders, symbolic links and what lies inside a dataset are left out.

    Raises:
        StorageError: The folder cannot be read; one below it that cannot is left out.
    """
    roots: list[str] = []
    folders = deque([(os.path.abspath(folder), 0)])  # the nearest first
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

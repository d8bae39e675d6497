"""Files of a source, at paths of this machine or at remote URLs.

Each function takes both. All raise OSError, with a reason in `strerror`, as those of `os` do.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice, takewhile
from typing import BinaryIO

from clipfleet.storage.filesystem.remote import (
    Place,
    is_remote,
    is_web,
    key_text,
    remote_place,
)
from clipfleet.storage.stores.objects import keys_below, open_object, stat_object

_FIRST_KEYS = 1000  # of a prefix, which say what it holds: it may have any number

# Those of each remote folder that was asked for, by its URL; None outside `listed_once`.
_listed: ContextVar[dict[str, list[str] | None] | None] = ContextVar("_listed", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """In this block, the first keys of a remote folder are listed once, however often it is asked.

    For the moment in which a source is opened: a later list would miss what changed.
    """
    if _listed.get() is not None:
        yield
        return
    token = _listed.set({})
    try:
        yield
    finally:
        _listed.reset(token)


def open_file(location: str) -> BinaryIO:
    """Open a file for reading; it is seekable."""
    return open_object(remote_place(location)) if is_remote(location) else open(location, "rb")


def is_file(location: str) -> bool:
    """Return whether there is a regular file."""
    if is_remote(location):
        try:
            stat_object(remote_place(location))
        except FileNotFoundError:
            return False
        return True
    return os.path.isfile(location)


def is_folder(location: str) -> bool:
    """Return whether there is a folder, or a remote one with files below it."""
    if is_remote(location):
        return _first_keys(remote_place(location)) is not None
    return os.path.isdir(location)


def exists(location: str) -> bool:
    """Return whether there is anything."""
    if is_remote(location):
        return is_folder(location) or is_file(location)
    return os.path.exists(location)


def names_in(folder: str) -> list[str]:
    """Return the names in a folder; of a remote one, among its first 1,000 files."""
    if not is_remote(folder):
        return os.listdir(folder)
    keys = _first_keys(remote_place(folder)) or ()
    return list(dict.fromkeys(key.partition("/")[0] for key in keys))


def files_below(folder: str) -> Iterator[str]:
    """Yield the paths below a remote folder of all its files, in the store's order."""
    place = remote_place(folder)
    if _listed.get() is None:
        yield from keys_below(place)
        return
    first = _first_keys(place) or []
    yield from first
    if len(first) == _FIRST_KEYS:
        yield from islice(keys_below(place), _FIRST_KEYS, None)


def _first_keys(place: Place) -> list[str] | None:
    """Return the first paths below a folder; None if there is no folder."""
    listed = _listed.get()
    if listed is not None and place.url in listed:
        return listed[place.url]
    try:
        keys = list(islice(keys_below(place), _FIRST_KEYS))
        found = keys if keys or is_web(place.url) else None  # a store has no empty folders
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if not is_web(place.url) or error.filename != place.url:
            raise
        found = None  # a file, or a folder that the server does not list
    if listed is not None:
        listed[place.url] = found
    return found


def walk(
    folder: str, onerror: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what `os.walk` does; the names of a remote folder are all held in memory."""
    if not is_remote(folder):
        yield from os.walk(folder, onerror=onerror)
        return
    files: dict[str, list[str]] = defaultdict(list)
    folders: dict[str, dict[str, None]] = defaultdict(dict)  # in order, each once
    try:
        for key in files_below(folder):
            above, name = posixpath.split(key)
            files[above].append(name)
            while above:
                above, name = posixpath.split(above)
                folders[above][name] = None
    except OSError as error:
        onerror(error)
    waiting = [""]
    while waiting:
        path = waiting.pop()
        inner = list(folders[path])
        yield posixpath.join(folder, path) if path else folder, inner, files[path]
        waiting += [posixpath.join(path, name) for name in reversed(inner)]


def matching(pattern: str) -> list[str]:
    """Return the files that a pattern of `*`, `?` and `[…]` names, sorted."""
    if not is_remote(pattern):
        return sorted(glob.glob(pattern))
    place = remote_place(pattern)
    wanted = place.key.split("/")
    plain = list(takewhile(lambda part: glob.escape(part) == part, wanted))
    root = Place(scheme=place.scheme, container=place.container, key="/".join(plain))
    wanted = wanted[len(plain) :]
    found = []
    for key in keys_below(root):
        parts = key.split("/")
        if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            found.append(f"{root.url}/{key}")
    return sorted(found)


def pyarrow_input(location: str) -> str | BinaryIO:
    """Return what pyarrow takes as a file: a path, or an open remote file."""
    return open_object(remote_place(location)) if is_remote(location) else location


def below(location: str, folder: str) -> str:
    """Return the path of a location below its folder, as text."""
    return key_text(os.path.relpath(location, folder), folder)

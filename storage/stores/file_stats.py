"""The sizes, times and hashes of files on this machine and in object stores, many at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import local_path
from clipfleet.storage.filesystem.members import parse_member
from clipfleet.storage.filesystem.remote import STORE_SCHEMES, is_remote, remote_place
from clipfleet.storage.stores.files import open_file
from clipfleet.storage.stores.objects import FileStat, stat_object

_THREADS = 16  # a network disk answers each question after a millisecond or so
_STORE_THREADS = 64  # a store after some tens of milliseconds
_FILES = 128  # at most, that a thread asks for one after the other
_READ_BYTES = 1 << 20
_LEAST = -(1 << 63)  # int64

Found = TypeVar("Found")


def file_of(uri: str) -> str | None:
    """Return the path, or the URL in an object store, of the file with a uri's bytes.

    Of a member, it is the archive. None if there is none: the hub and web servers give no times.
    """
    try:
        member = parse_member(uri)
        path = uri if member is None else member.path
        if is_remote(path):
            place = remote_place(path)
            return place.url if place.scheme in STORE_SCHEMES else None
        path = local_path(path) if member is None else path
    except (UsageError, ValueError):
        return None
    return path if os.path.isabs(path) else None


def mtime_ns(status: os.stat_result) -> int:
    """Return the time of a file's last change, as an int64: after the year 2262, its largest."""
    return max(_LEAST, min(status.st_mtime_ns, -_LEAST - 1))


def file_stats(locations: Sequence[str]) -> list[FileStat | None]:
    """Return the sizes and times of files at paths or in stores; None of one that does not exist.

    Raises:
        UsageError: The file system or the store does not say whether a file exists.
    """
    return _each(locations, _stat)


def file_hashes(locations: Sequence[str]) -> list[str | None]:
    """Return the SHA-256 of files in hexadecimal digits; None of one that does not exist.

    Raises:
        UsageError: A file cannot be read.
    """
    return _each(locations, _sha256)


def _each(locations: Sequence[str], look: Callable[[str], Found]) -> list[Found | None]:
    once = list(dict.fromkeys(locations))  # many members are in one file
    threads = _STORE_THREADS if any(map(is_remote, once)) else _THREADS
    size = max(1, min(_FILES, len(once) // threads))
    groups = [once[start : start + size] for start in range(0, len(once), size)]
    with ThreadPoolExecutor(min(threads, len(groups) or 1)) as pool:
        answers = pool.map(lambda group: [_one(location, look) for location in group], groups)
        found = dict(zip(once, chain.from_iterable(answers), strict=True))
    return [found[location] for location in locations]


def _one(location: str, look: Callable[[str], Found]) -> Found | None:
    try:
        return look(location)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL
        return None
    except OSError as error:
        raise UsageError(
            f"{location} cannot be looked at ({error.strerror}): run the command on a machine, and "
            "as a user, that reads the pictures"
        ) from error


def _stat(location: str) -> FileStat:
    if is_remote(location):
        return stat_object(remote_place(location))
    status = os.stat(location)
    return FileStat(status.st_size, mtime_ns(status))


def _sha256(location: str) -> str:
    digest = hashlib.sha256()
    with open_file(location) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()

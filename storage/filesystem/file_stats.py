"""The sizes, times and hashes of files on this machine, many at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple, TypeVar

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import has_scheme, local_path
from clipfleet.storage.filesystem.members import file_path

_THREADS = 16  # a network disk answers each question after a millisecond or so
_FILES = 128  # that a thread asks for at once
_READ_BYTES = 1 << 20
_LEAST = -(1 << 63)  # int64

Found = TypeVar("Found")


class FileStat(NamedTuple):
    """The size of a file, and the time of its last change in nanoseconds since 1970."""

    size_bytes: int
    mtime_ns: int


def is_local(uri: str) -> bool:
    """Return whether a uri names a file of this machine: an absolute path, or a `file://` URL.

    A member is none: it is in a file, see `file_of`.
    """
    try:
        return os.path.isabs(uri) or (has_scheme(uri) and bool(local_path(uri)))
    except UsageError:
        return False


def file_of(uri: str) -> str | None:
    """Return the path of the file of this machine that has a uri's bytes: of a member, its archive.

    None if there is none, such as of a URL.
    """
    try:
        path = file_path(uri)
    except (UsageError, ValueError):
        return None
    return path if os.path.isabs(path) else None


def mtime_ns(status: os.stat_result) -> int:
    """Return the time of a file's last change, as an int64: after the year 2262, its largest."""
    return max(_LEAST, min(status.st_mtime_ns, -_LEAST - 1))


def file_stats(uris: Sequence[str]) -> list[FileStat | None]:
    """Return what the file system says of local files; None of a file that does not exist.

    Raises:
        UsageError: It does not say whether a file exists.
    """
    return _each(uris, _stat)


def file_hashes(uris: Sequence[str]) -> list[str | None]:
    """Return the SHA-256 of local files in hexadecimal digits; None of one that does not exist.

    Raises:
        UsageError: A file cannot be read.
    """
    return _each(uris, _sha256)


def _each(uris: Sequence[str], look: Callable[[str], Found]) -> list[Found | None]:
    once = list(dict.fromkeys(uris))  # many members are in one file
    groups = [once[start : start + _FILES] for start in range(0, len(once), _FILES)]
    with ThreadPoolExecutor(min(_THREADS, len(groups) or 1)) as pool:
        answers = pool.map(lambda group: [_one(uri, look) for uri in group], groups)
        found = dict(zip(once, chain.from_iterable(answers), strict=True))
    return [found[uri] for uri in uris]


def _one(uri: str, look: Callable[[str], Found]) -> Found | None:
    try:
        return look(local_path(uri))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL
        return None
    except OSError as error:
        raise UsageError(
            f"{uri} cannot be looked at ({error.strerror}): run the command on a machine, and as a "
            "user, that reads the pictures"
        ) from error


def _stat(path: str) -> FileStat:
    status = os.stat(path)
    return FileStat(status.st_size, mtime_ns(status))


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()

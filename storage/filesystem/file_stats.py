"""The sizes and times of files on this machine, many at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple
from urllib.parse import urlsplit

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import has_scheme, local_path

_THREADS = 16  # a network disk answers each question after a millisecond or so
_LEAST = -(1 << 63)  # int64
_FILES = 128  # that a thread asks for at once


class FileStat(NamedTuple):
    """The size of a file, and the time of its last change in nanoseconds since 1970."""

    size_bytes: int
    mtime_ns: int


def mtime_ns(status: os.stat_result) -> int:
    """Return the time of a file's last change, as an int64: after the year 2262, its largest."""
    return max(_LEAST, min(status.st_mtime_ns, -_LEAST - 1))


def is_local(uri: str) -> bool:
    """Return whether a uri names a file of this machine: a path, or a `file://` URL."""
    return not has_scheme(uri) or urlsplit(uri).scheme == "file"


def file_stats(uris: Sequence[str]) -> list[FileStat | None]:
    """Return what the file system says of local files; None of a file that does not exist.

    Raises:
        UsageError: It does not say whether a file exists.
    """
    groups = [uris[start : start + _FILES] for start in range(0, len(uris), _FILES)]
    if len(groups) < 2:
        return [_stat(uri) for uri in uris]
    with ThreadPoolExecutor(min(_THREADS, len(groups))) as pool:
        return list(chain.from_iterable(pool.map(lambda group: [*map(_stat, group)], groups)))


def _stat(uri: str) -> FileStat | None:
    try:
        found = os.stat(local_path(uri))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"whether {uri} exists cannot be told ({reason}): run the command on a machine, and as "
            "a user, that reads the pictures"
        ) from error
    return FileStat(found.st_size, mtime_ns(found))

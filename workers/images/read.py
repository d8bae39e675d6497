"""From an item's uri to its bytes, or to the one error that says why there are none."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence

from clipfleet.error_codes import (
    DISK_ERROR,
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    TOO_LARGE,
)
from clipfleet.errors import ItemError, StorageError
from clipfleet.storage.filesystem.locations import has_scheme
from clipfleet.storage.sources.image_files import read_uri
from clipfleet.validation import printable
from clipfleet.workers.backoff import backoff_s

MAX_MESSAGE_LENGTH = 300  # characters

_ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")

_CODES = {  # and the reasons to give; None: what the error itself says
    errno.ENOENT: (MISSING, "there is no file"),
    errno.ENOTDIR: (MISSING, "a part of its path is no folder"),
    errno.ENAMETOOLONG: (MISSING, "the name is longer than the file system allows"),
    errno.EINVAL: (MISSING, None),
    errno.EACCES: (PERMISSION_DENIED, "this user may not read it"),
    errno.EPERM: (PERMISSION_DENIED, "this user may not read it"),
    errno.EISDIR: (NOT_A_FILE, "it is a folder"),
    errno.ENXIO: (NOT_A_FILE, "it is a pipe, a socket or a device"),
    errno.EXDEV: (
        NOT_ALLOWED,
        (
            "it lies below none of this worker's input roots, or a link leads out of them: "
            "start the worker with an --input-root that has it"
        ),
    ),
    errno.EFBIG: (TOO_LARGE, None),
    errno.EPROTONOSUPPORT: (
        READ_FAILED,
        "workers read absolute paths and file:// URLs of their own machine, and https:// URLs",
    ),
    errno.EIO: (DISK_ERROR, None),
    errno.ESTALE: (DISK_ERROR, None),
    errno.ETIMEDOUT: (DISK_ERROR, None),
}
# The machine's trouble, or all of a network disk's, not the item's: the shard is tried again.
_TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN})

_WEB = ("http://", "https://")


def is_web(uri: str) -> bool:
    """Return whether a uri is one that is fetched."""
    return uri[:8].lower().startswith(_WEB)


def no_urls(url: str) -> bytes:
    """Fetch no URL: how it is unless somebody allows hosts.

    Raises:
        ItemError: Always.
    """
    reason = "no URL is, unless the worker's CLIPFLEET_URL_HOSTS names its host"
    raise item_error(NOT_ALLOWED, f"{shown(url)} is not fetched: {reason}")


def read_bytes(
    uri: str,
    max_bytes: int,
    roots: Sequence[str] = (),
    *,
    attempts: int = 1,
    fetch: Callable[[str], bytes] = no_urls,
) -> bytes:
    """Return the bytes of a regular file, an absolute path or a `file://` URL, or of a web page.

    With `roots`, folders without symbolic links in their paths, only of a file below them. A
    disk that fails is asked `attempts` times; `fetch` has its own patience.

    Raises:
        ItemError: It cannot be read, is empty, has more than `max_bytes`, or lies elsewhere.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    data = fetch(uri) if is_web(uri) else _read_file(uri, max_bytes, roots, attempts)
    if not data:
        raise ItemError(EMPTY_FILE, f"{shown(uri)} is empty: it has 0 bytes")
    return data


def _read_file(uri: str, max_bytes: int, roots: Sequence[str], attempts: int) -> bytes:
    if not os.path.isabs(uri) and not has_scheme(uri):
        raise ItemError(MISSING, f"{shown(uri)} is not an absolute path: name a file by its own")
    for attempt in range(1, attempts + 1):
        try:
            return read_uri(uri, max_bytes, roots)
        except OSError as error:
            failure = _read_error(uri, error)
            if attempt == attempts or getattr(failure, "code", None) != DISK_ERROR:
                raise failure from error
        time.sleep(backoff_s(attempt))
    raise AssertionError("an attempt neither returned nor raised")


def _read_error(uri: str, error: OSError) -> ItemError | StorageError:
    said = error.strerror or type(error).__name__
    if error.errno in _TRANSIENT:
        return StorageError(f"{shown(uri)} cannot be read now: {said}")
    if error.errno == errno.EFBIG:
        said += " by max_image_bytes"
    code, reason = _CODES.get(error.errno or 0, (READ_FAILED, None))
    return item_error(code, f"{shown(uri)} cannot be read: {reason or said}")


def item_error(code: str, message: str) -> ItemError:
    """Return an error whose message is printable, holds no object's address, is not too long."""
    message = printable(_ADDRESS.sub("…", message))
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    return ItemError(code, message)


def shown(name: str) -> str:
    """Return a name as messages have it: quoted, with escapes, its middle left out if long."""
    quoted = ascii(name) if not name.isprintable() else repr(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:40]}…{quoted[-79:]}"

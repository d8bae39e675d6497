"""From an item's uri to its bytes, or to the one error that says why there are none."""

from __future__ import annotations

import errno
import os
import re
import stat

from clipfleet.errors import ItemError, StorageError, UsageError
from clipfleet.jobs import (
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    PERMISSION_DENIED,
    READ_FAILED,
    TOO_LARGE,
)
from storage.filesystem import local_path

MAX_MESSAGE_LENGTH = 300  # characters

_ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")

_CODES_OF_ERRNO = {
    errno.ENOENT: (MISSING, "there is no file"),
    errno.ENOTDIR: (MISSING, "a part of its path is no folder"),
    errno.ENAMETOOLONG: (MISSING, "the name is longer than the file system allows"),
    errno.EACCES: (PERMISSION_DENIED, "this user may not read it"),
    errno.EPERM: (PERMISSION_DENIED, "this user may not read it"),
    errno.EISDIR: (NOT_A_FILE, "it is a folder"),
    errno.ENXIO: (NOT_A_FILE, "it is a socket or a device"),
}
# The machine's or the server's trouble, not the item's: the shard is tried again.
_TRANSIENT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
)


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of a regular file: an absolute path or a `file://` URL.

    Raises:
        ItemError: It cannot be read, is empty, or has more than `max_bytes`.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    try:
        with open(_local_path(uri), "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ItemError(NOT_A_FILE, f"{shown(uri)} is no file, but a pipe or a device")
            if status.st_size > max_bytes:
                raise ItemError(
                    TOO_LARGE,
                    f"{shown(uri)} has {status.st_size} bytes: more than max_image_bytes, which "
                    f"is {max_bytes}",
                )
            data = file.read()
    except OSError as error:
        raise _read_error(uri, error) from error
    except ValueError as error:  # NUL, or a character that the file system cannot encode
        raise item_error(MISSING, f"{shown(uri)} cannot be a file's name: {error}") from error
    if not data:
        raise ItemError(EMPTY_FILE, f"{shown(uri)} is empty: it has 0 bytes")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def _local_path(uri: str) -> str:
    if os.path.isabs(uri):  # also one that holds "://"
        return uri
    try:
        if "://" in uri:
            return local_path(uri)
    except UsageError as error:
        raise ItemError(
            READ_FAILED,
            f"{shown(uri)} cannot be read: workers read absolute paths and file:// URLs of their "
            "own machine",
        ) from error
    raise ItemError(MISSING, f"{shown(uri)} is not an absolute path: name a file by its own")


def _read_error(uri: str, error: OSError) -> ItemError | StorageError:
    if error.errno in _TRANSIENT:
        return StorageError(f"{shown(uri)} cannot be read now: {error.strerror}")
    code, reason = _CODES_OF_ERRNO.get(
        error.errno or 0, (READ_FAILED, error.strerror or type(error).__name__)
    )
    return ItemError(code, f"{shown(uri)} cannot be read: {reason}")


def item_error(code: str, message: str) -> ItemError:
    """An error whose message holds no object's address and is not too long."""
    message = _ADDRESS.sub("…", message)
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    return ItemError(code, message)


def shown(name: str) -> str:
    """A name as it stands in messages: quoted, with escapes, its middle left out if long."""
    quoted = ascii(name) if not name.isprintable() else repr(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:40]}…{quoted[-79:]}"

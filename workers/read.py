"""From an item's uri to its bytes, or to the one error that says why there are none."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

from clipfleet.errors import ItemError, StorageError
from clipfleet.jobs import (
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    TOO_LARGE,
)
from storage.item_files import read_uri
from storage.locations import has_scheme

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
        "workers read absolute paths and file:// URLs of their own machine",
    ),
}
# The machine's or the server's trouble, not the item's: the shard is tried again.
_TRANSIENT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
)


def read_bytes(uri: str, max_bytes: int, roots: Sequence[str] = ()) -> bytes:
    """Return the bytes of a regular file: an absolute path or a `file://` URL.

    With `roots`, folders without symbolic links in their paths, only of one below them.

    Raises:
        ItemError: It cannot be read, is empty, has more than `max_bytes`, or lies elsewhere.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    if not os.path.isabs(uri) and not has_scheme(uri):
        raise ItemError(MISSING, f"{shown(uri)} is not an absolute path: name a file by its own")
    try:
        data = read_uri(uri, max_bytes, roots)
    except OSError as error:
        raise _read_error(uri, error) from error
    if not data:
        raise ItemError(EMPTY_FILE, f"{shown(uri)} is empty: it has 0 bytes")
    return data


def _read_error(uri: str, error: OSError) -> ItemError | StorageError:
    said = error.strerror or type(error).__name__
    if error.errno in _TRANSIENT:
        return StorageError(f"{shown(uri)} cannot be read now: {said}")
    if error.errno == errno.EFBIG:
        said += " by max_image_bytes"
    code, reason = _CODES.get(error.errno or 0, (READ_FAILED, None))
    return item_error(code, f"{shown(uri)} cannot be read: {reason or said}")


def item_error(code: str, message: str) -> ItemError:
    """Return an error whose message holds no object's address and is not too long."""
    message = _ADDRESS.sub("…", message)
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    return ItemError(code, message)


def shown(name: str) -> str:
    """Return a name as messages have it: quoted, with escapes, its middle left out if long."""
    quoted = ascii(name) if not name.isprintable() else repr(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:40]}…{quoted[-79:]}"

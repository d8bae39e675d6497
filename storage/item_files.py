"""The files that items name: an image's bytes, wherever its uri says they are."""

from __future__ import annotations

import errno
import os
import stat

from clipfleet.errors import UsageError
from storage.filesystem import local_path


def read_uri(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of an item's file: a local path or a `file://` URL.

    Raises:
        FileNotFoundError: Nothing is there.
        IsADirectoryError: It is a folder.
        PermissionError: It may not be read.
        OSError: EFBIG, it has more than `max_bytes`; EPROTONOSUPPORT, the scheme is not
            supported; ENXIO, it is a pipe, socket or device; EINVAL, it is no path at all;
            or the disk's own error.
    """
    try:
        with open(local_path(uri), "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ENXIO, "not a regular file but a pipe, socket or device", uri)
            if status.st_size > max_bytes:
                reason = f"{status.st_size} bytes, more than the {max_bytes} allowed"
                raise OSError(errno.EFBIG, reason, uri)
            return file.read()
    except UsageError as error:
        raise OSError(errno.EPROTONOSUPPORT, str(error), uri) from error
    except ValueError as error:  # a NUL, or a surrogate
        raise OSError(errno.EINVAL, f"not a path: {error}", uri) from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer

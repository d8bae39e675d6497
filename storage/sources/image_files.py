"""The files that items name: an image's bytes, wherever its uri says they are."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from functools import partial

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import local_path


def read_uri(uri: str, max_bytes: int, roots: Sequence[str] = ()) -> bytes:
    """Return the bytes of an item's file: a local path or a `file://` URL.

    With `roots`, folders without symbolic links in their paths, nothing is opened that does
    not lie below one of them once `..` and symbolic links are resolved.

    Raises:
        FileNotFoundError: Nothing is there.
        IsADirectoryError: It is a folder.
        PermissionError: It may not be read.
        OSError: EFBIG, it has more than `max_bytes`; EPROTONOSUPPORT, the scheme is not
            supported; ENXIO, it is a pipe, socket or device; EXDEV, it is below none of the
            roots; EINVAL, it is no path at all; or the disk's own error.
    """
    opener = partial(_open_below, roots) if roots else _open
    try:
        # Not open(…, opener=…): an audit would see the name opened, whatever the opener says.
        descriptor = opener(local_path(uri), os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            _check_regular(status, uri)
            if status.st_size > max_bytes:
                reason = f"{status.st_size} bytes, more than the {max_bytes} allowed"
                raise OSError(errno.EFBIG, reason, uri)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except UsageError as error:
        raise OSError(errno.EPROTONOSUPPORT, str(error), uri) from error
    except ValueError as error:  # a NUL, or a surrogate
        raise OSError(errno.EINVAL, f"not a path: {error}", uri) from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def _open_below(roots: Sequence[str], path: str, flags: int) -> int:
    """Return a descriptor of a file below one of the roots.

    The resolved path is looked at twice. First by name: what lies outside is refused alike
    whether it is there or not, so that no answer tells. Then by a descriptor that has opened
    nothing yet (O_PATH): a symbolic link may have been put in its way in between.
    """
    real = os.path.realpath(path)
    _check_below(real, roots)
    found = os.open(real, os.O_PATH | os.O_CLOEXEC)
    try:
        link = f"/proc/self/fd/{found}"
        _check_below(os.readlink(link), roots)
        _check_regular(os.fstat(found), path)  # a device may act on being opened
        return _open(link, flags)  # this very file, whatever its name means by now
    finally:
        os.close(found)


def _check_below(real: str, roots: Sequence[str]) -> None:
    if not any(os.path.commonpath((real, root)) == root for root in roots):
        # What Linux itself says (openat2) of a path that leaves the folder it is bound to.
        raise OSError(errno.EXDEV, "below none of the input roots", real)


def _check_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ENXIO, "not a regular file but a pipe, socket or device", path)

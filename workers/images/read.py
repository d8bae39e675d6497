"""From an item's uri to its bytes, or to one error with the reason."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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
from clipfleet.errors import ItemError, StorageError, UsageError
from clipfleet.storage.filesystem.locations import has_scheme, local_path
from clipfleet.storage.filesystem.members import (
    ParquetPicture,
    TgzMember,
    is_fetched,
    parse_member,
)
from clipfleet.storage.filesystem.remote import is_below
from clipfleet.storage.stores.file_stats import mtime_ns
from clipfleet.workers.backoff import backoff_s
from clipfleet.workers.images.members import read_member
from clipfleet.workers.item_errors import item_error, shown

_CODES = {  # the error code and the reason; None: the system's message
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
        (
            "workers read absolute paths and file:// URLs of their own machine, and s3://, gs://, "
            "hf:// and https:// URLs"
        ),
    ),
    errno.EIO: (DISK_ERROR, None),
    errno.ESTALE: (DISK_ERROR, None),
    errno.ETIMEDOUT: (DISK_ERROR, None),
}
# The cause is the machine or a network disk, not the item: the shard is retried.
_TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN})

_WEB = ("http://", "https://")


class FileBytes(NamedTuple):
    """The bytes of a file, and the time of its last change before they were read (`mtime_ns`)."""

    data: bytes
    mtime_ns: int


class ObjectBytes(bytes):
    """The bytes of an object of a store, which also have the time of its last change."""

    mtime_ns = 0

    @classmethod
    def of(cls, data: bytes, mtime_ns: int) -> ObjectBytes:
        """Return bytes with a time."""
        found = cls(data)
        found.mtime_ns = mtime_ns
        return found


def is_http_url(uri: str) -> bool:
    """Return whether a uri is an http:// or https:// URL."""
    return uri[:8].lower().startswith(_WEB)


def is_in_order(uri: str) -> bool:
    """Return whether a uri is a member that is read fast only after the member before it."""
    scheme, _, _ = uri.partition("://")
    return scheme == ParquetPicture.scheme or (scheme == TgzMember.scheme and is_fetched(uri))


def is_fetched_ahead(uri: str) -> bool:
    """Return whether a uri is fetched while others are decoded, in any order."""
    return is_fetched(uri) and not is_in_order(uri)


def refuse_url(url: str) -> bytes:
    """Refuse a URL: no host is allowed.

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
    fetch: Callable[[str], bytes] = refuse_url,
) -> bytes:
    """Return the bytes at an absolute path, a `file://` URL, a member's URL, or a remote URL.

    With `roots`, which are folders without symbolic links in their paths, a file must lie below
    one of them. A disk error is retried, up to `attempts` in all; `fetch` has its own retries.

    Raises:
        ItemError: The file cannot be read, is empty, has more than `max_bytes`, or lies elsewhere.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    if not is_fetched(uri):
        return read_file(uri, max_bytes, roots, attempts=attempts).data
    data = fetch(uri)
    check_not_empty(data, uri)
    return data


def read_file(
    uri: str, max_bytes: int, roots: Sequence[str] = (), *, attempts: int = 1
) -> FileBytes:
    """Return the bytes at an absolute path or a `file://` URL, as `read_bytes` does.

    Raises:
        ItemError, StorageError: As in `read_bytes`.
    """
    found = _read_file(uri, max_bytes, roots, attempts)
    check_not_empty(found.data, uri)
    return found


def check_not_empty(data: bytes, uri: str) -> None:
    """Refuse 0 bytes.

    Raises:
        ItemError: There are no bytes.
    """
    if not data:
        raise ItemError(EMPTY_FILE, f"{shown(uri)} is empty: it has 0 bytes")


def _read_file(uri: str, max_bytes: int, roots: Sequence[str], attempts: int) -> FileBytes:
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
    message = error.strerror or type(error).__name__
    if error.errno in _TRANSIENT:
        return StorageError(f"{shown(uri)} cannot be read now: {message}")
    if error.errno == errno.EFBIG:
        message += " by max_image_bytes"
    code, reason = _CODES.get(error.errno or 0, (READ_FAILED, None))
    return item_error(code, f"{shown(uri)} cannot be read: {reason or message}")


def read_uri(uri: str, max_bytes: int, roots: Sequence[str] = ()) -> FileBytes:
    """Return the bytes of a regular file, a local path or a `file://` URL, or of a member of one.

    A file comes with its time; a member has none, 0.

    With `roots` (folders whose paths have no symbolic links) a file is opened only if it lies
    below one of them, after `..` and symbolic links are resolved.

    Raises:
        FileNotFoundError: The path does not exist.
        IsADirectoryError: It is a folder.
        PermissionError: This user may not read it.
        OSError: EFBIG, it has more than `max_bytes`; EPROTONOSUPPORT, the scheme is not
            supported; ENXIO, it is a pipe, a socket or a device; EXDEV, it lies below none of the
            roots; EINVAL, it is not a path; or the disk's own error.
        ItemError: A member's file is damaged, or was written anew.
    """
    opener = partial(_open_below, roots) if roots else _open
    try:
        # Not open(…, opener=…): its audit event says that the path is opened, even if it is not.
        member = parse_member(uri)
        path = local_path(uri) if member is None else member.path
        descriptor = opener(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            _check_regular(status, uri)
            if member is not None:
                return FileBytes(read_member(descriptor, member, max_bytes), 0)
            if status.st_size > max_bytes:
                reason = f"{status.st_size} bytes, more than the {max_bytes} allowed"
                raise OSError(errno.EFBIG, reason, uri)
            with open(descriptor, "rb", closefd=False) as file:
                return FileBytes(file.read(), mtime_ns(status))
        finally:
            os.close(descriptor)
    except UsageError as error:
        raise OSError(errno.EPROTONOSUPPORT, str(error), uri) from error
    except ValueError as error:  # a NUL, or a surrogate
        raise OSError(errno.EINVAL, f"not a path: {error}", uri) from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would block until it has a writer


def _open_below(roots: Sequence[str], path: str, flags: int) -> int:
    """Return the descriptor of a file below one of the roots.

    The resolved path is checked twice. The first check uses the name: a path outside gets the same
    refusal whether the file exists or not. The second check uses a descriptor that only locates the
    file (O_PATH): a symbolic link may have replaced a folder in between.
    """
    real = os.path.realpath(path)
    _check_below(real, roots)
    found = os.open(real, os.O_PATH | os.O_CLOEXEC)
    try:
        link = f"/proc/self/fd/{found}"
        _check_below(os.readlink(link), roots)
        _check_regular(os.fstat(found), path)  # opening a device may have an effect
        return _open(link, flags)  # the checked file, even if its name changed meanwhile
    finally:
        os.close(found)


def _check_below(real: str, roots: Sequence[str]) -> None:
    if not any(is_below(real, root) for root in roots):
        # EXDEV is the answer of Linux (openat2) for a path that leaves its folder.
        raise OSError(errno.EXDEV, "below none of the input roots", real)


def _check_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.ENXIO, "not a regular file but a pipe, socket or device", path)

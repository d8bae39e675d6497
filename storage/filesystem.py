"""The file system handle that a dataset is read and written through.

Object stores belong behind the same protocol later: a conditional PUT
(`If-None-Match: *`) is `create`, a plain PUT is `replace`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from clipfleet.errors import DatasetError, StorageError, UsageError

TEMPORARY_FOLDER = "_temporary"  # beside the parts, never among them: globs would read it
_SCHEMES = "a local path or a file:// URL"
_ADVICE = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "raise the quota or free some space, and run again",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EROFS: "mount it writable, or choose another folder",
}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

Names = list[str]


class Filesystem(Protocol):
    """A tree of files under one root; paths are relative to it, with `/`.

    Every method raises StorageError where the disk or store refuses, with the path and
    the reason. A missing file is a FileNotFoundError, in `read` and `open` only.
    """

    def read(self, path: str) -> bytes: ...

    def open(self, path: str) -> BinaryIO:
        """Return a seekable binary file, to be closed by the caller."""
        ...

    def create(self, path: str, data: bytes | memoryview) -> bool:
        """Write a file that is not there; False, and nothing written, if it is.

        Of several writers exactly one gets True. The file appears whole, and is on the
        disk when this returns.
        """
        ...

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Write a file, there or not; readers see the old one or the new one, whole."""
        ...

    def list(self, folder: str) -> Names:
        """Return the sorted names of a folder's entries; none if it is not there."""
        ...

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...


def open_filesystem(root: str) -> Filesystem:
    """Return the file system whose root is a folder, there or not yet.

    Raises:
        UsageError: `root` has a scheme that is not supported.
    """
    return LocalFilesystem(local_path(root))


def local_path(location: str) -> str:
    """Return the absolute path of a plain path or a `file://` URL.

    Raises:
        UsageError: Another scheme, another host, or an empty location.
    """
    if not location:
        raise UsageError(f"an empty location: expected {_SCHEMES}")
    if "://" not in location:
        return os.path.abspath(location)
    url = urlsplit(location)
    if url.scheme != "file":
        raise UsageError(f"{location}: {url.scheme}:// is not supported, only {_SCHEMES}")
    if url.netloc not in ("", "localhost"):
        raise UsageError(f"{location}: names the host {url.netloc!r}; expected file:///path")
    # Not url.path: a '?' or '#' is a character of the path here.
    path = location.split("://", 1)[1][len(url.netloc) :]
    return os.path.abspath(os.fsdecode(unquote_to_bytes(path)))


class LocalFilesystem:
    """A folder of this machine, or of a network file system that has hard links."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def read(self, path: str) -> bytes:
        with self.open(path) as file, _storage_errors("read", file.name):
            return file.read()

    def open(self, path: str) -> BinaryIO:
        full = self._full(path)
        with _storage_errors("open", full, passed=(FileNotFoundError,)):
            return open(full, "rb")

    def create(self, path: str, data: bytes | memoryview) -> bool:
        full = self._full(path)
        with _storage_errors("write", full), self._written(data) as temporary:
            self._make_folder(os.path.dirname(full))
            return self._link(temporary, full)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        full = self._full(path)
        with _storage_errors("write", full), self._written(data) as temporary:
            self._make_folder(os.path.dirname(full))
            os.replace(temporary, full)
            _sync_folder(os.path.dirname(full))

    def list(self, folder: str) -> Names:
        full = self._full(folder)
        with _storage_errors("list", full):
            try:
                return sorted(os.listdir(full))
            except FileNotFoundError:
                return []

    def exists(self, path: str) -> bool:
        full = self._full(path)
        with _storage_errors("look for", full):
            try:
                os.stat(full)
            except FileNotFoundError:
                return False
            return True

    def delete(self, path: str) -> None:
        full = self._full(path)
        with _storage_errors("delete", full), contextlib.suppress(FileNotFoundError):
            os.unlink(full)

    def _full(self, path: str) -> str:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise UsageError(f"path {path!r} leaves the folder {self.root}")
        return os.path.join(self.root, path) if path else self.root

    @contextlib.contextmanager
    def _written(self, data: bytes | memoryview) -> Iterator[str]:
        """Write a temporary file to the disk; it is gone afterwards, unless it was renamed."""
        folder = os.path.join(self.root, TEMPORARY_FOLDER)
        self._make_folder(folder)
        temporary = os.path.join(folder, uuid.uuid4().hex)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):  # gone by a rename, or the disk's error is raised
                os.unlink(temporary)

    def _link(self, temporary: str, full: str) -> bool:
        try:
            os.link(temporary, full)
        except FileExistsError:
            # A network file system may repeat a link that succeeded.
            if os.stat(temporary).st_nlink != 2:
                return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            raise DatasetError(
                f"cannot write {full}: its file system has no hard links ({error.strerror}), which "
                "decide between two writers; choose a folder on another file system"
            ) from error
        _sync_folder(os.path.dirname(full))
        return True

    def _make_folder(self, folder: str) -> None:
        if os.path.isdir(folder):
            return
        parent = os.path.dirname(folder)
        self._make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    """Bring the names in a folder to the disk; without it a crash may lose a written file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(
    action: str, full: str, passed: tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    try:
        yield
    except passed:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot {action} {full}: {reason}" + (f"; {advice}" if advice else "")
        ) from error


def read_uri(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of an item's file: a local path or a `file://` URL.

    Raises:
        FileNotFoundError: Nothing is there.
        IsADirectoryError: It is a folder.
        PermissionError: It may not be read.
        OSError: EFBIG, it has more than `max_bytes`; EPROTONOSUPPORT, the scheme is not
            supported; EINVAL, it is a pipe, socket or device, or no path at all; or the
            disk's own error.
    """
    try:
        path = local_path(uri)
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except UsageError as error:
        raise OSError(errno.EPROTONOSUPPORT, str(error), uri) from error
    except ValueError as error:  # a NUL, or a surrogate
        raise OSError(errno.EINVAL, f"not a path: {error}", uri) from error
    with open(descriptor, "rb", closefd=True) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file but a pipe, socket or device", uri)
        data = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
    if len(data) > max_bytes or status.st_size > max_bytes:
        size_bytes = max(len(data), status.st_size)
        raise OSError(errno.EFBIG, f"{size_bytes} bytes, more than the {max_bytes} allowed", uri)
    return data

"""The file system of a folder on a local or network disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from clipfleet.errors import DatasetError, StorageError, UsageError
from clipfleet.storage.filesystem.base import Names

TEMPORARY_FOLDER = "_temporary"  # outside the folder of parts: a glob over parts must not match

_STALE_S = 24 * 3600  # no write takes this long: the writer of an older temporary file was killed
_ADVICE = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "raise the quota or free some space, and run again",
    errno.EACCES: "give this user the right to it, or choose another folder",
    errno.EPERM: "give this user the right to it, or choose another folder",
    errno.EROFS: "mount it writable, or choose another folder",
    errno.ENOENT: "put it back, or submit again",
}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# Some network file systems write names to the disk themselves and refuse the call. This user may
# have no right to a folder above the root.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


class LocalFilesystem:
    """A folder of this machine, or of a network file system that has hard links."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def read(self, path: str) -> bytes:
        with self.open(path) as file, _storage_errors("read", file.name):
            return file.read()

    def open(self, path: str) -> BinaryIO:
        full = self._full(path)
        with _storage_errors("open", full, unchanged=(FileNotFoundError,)):
            try:
                return open(full, "rb")
            except IsADirectoryError as error:
                raise DatasetError(f"{full} is a folder, not a file: move it away") from error

    def create(self, path: str, data: bytes | memoryview) -> bool:
        full = self._full(path)
        with _storage_errors("write", full), self._written(data, full) as temporary:
            return self._link(temporary, full)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        full = self._full(path)
        with _storage_errors("write", full), self._written(data, full) as temporary:
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

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Hold an existing file's lock, which one process at a time has; wait until it is free."""
        full = self._full(path)
        with _storage_errors("lock", full):
            descriptor = os.open(full, os.O_RDWR | os.O_CLOEXEC)
        try:
            with _storage_errors("lock", full):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # frees the lock

    def tidy(self) -> None:
        for name in self.list(TEMPORARY_FOLDER):
            started_s = name.partition("-")[0]
            if started_s.isdecimal() and time.time() - int(started_s) > _STALE_S:
                self.delete(f"{TEMPORARY_FOLDER}/{name}")

    def _full(self, path: str) -> str:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise UsageError(f"path {path!r} leaves the folder {self.root}")
        return os.path.join(self.root, path) if path else self.root

    @contextlib.contextmanager
    def _written(self, data: bytes | memoryview, full: str) -> Iterator[str]:
        """Write a temporary file to the disk, and delete it afterwards unless it was renamed.

        `full` is its later name. The root is made only for a file directly in it: a write into a
        dataset that was deleted meanwhile must not make half a dataset.
        """
        folder, target = os.path.join(self.root, TEMPORARY_FOLDER), os.path.dirname(full)
        for needed in (target, folder):
            self._make_folder(needed, root_too=target == self.root)
        temporary = os.path.join(folder, f"{int(time.time())}-{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):  # it was renamed, or the disk's error is raised
                os.unlink(temporary)

    def _link(self, temporary: str, full: str) -> bool:
        try:
            os.link(temporary, full)
        except FileExistsError:
            # A network file system may repeat a request that succeeded.
            if os.stat(temporary).st_nlink != 2:
                return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS or _has_hard_links(temporary):
                raise
            raise DatasetError(
                f"cannot write {full}: its file system has no hard links ({error.strerror}), which "
                "decide between two writers; choose a folder on another file system"
            ) from error
        _sync_folder(os.path.dirname(full))
        return True

    def _make_folder(self, folder: str, *, root_too: bool) -> None:
        if os.path.isdir(folder):
            return
        if folder == self.root and not root_too:
            raise FileNotFoundError(errno.ENOENT, f"{folder} is gone")
        parent = os.path.dirname(folder)
        self._make_folder(parent, root_too=root_too)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        _sync_folder(parent)


def is_folder(error: Exception) -> bool:
    """Return whether an error says that a folder has the place of a file."""
    return isinstance(error.__cause__, IsADirectoryError)


def _has_hard_links(path: str) -> bool:
    """Return whether a file can get a second name here: EPERM also means an immutable folder."""
    try:
        os.link(path, f"{path}-link")
    except OSError:
        return False
    os.unlink(f"{path}-link")
    return True


def _sync_folder(folder: str) -> None:
    """Write the names in a folder to the disk; a crash before that may lose a written file."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


@contextlib.contextmanager
def _storage_errors(
    action: str, full: str, unchanged: tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    try:
        yield
    except unchanged:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot {action} {full}: {reason}" + (f"; {advice}" if advice else "")
        ) from error

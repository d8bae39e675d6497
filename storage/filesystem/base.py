"""The file system handle that a dataset is read and written through: a disk or an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from clipfleet.errors import DependencyError
from clipfleet.storage.filesystem.local import LocalFilesystem
from clipfleet.storage.filesystem.locations import absolute, in_object_store

if TYPE_CHECKING:
    from clipfleet.storage.filesystem.s3 import ObjectFilesystem

STORE_TIMEOUT_S = 30.0  # for one request to an object store, where no settings are given

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

    def tidy(self) -> None:
        """Remove what writers that were killed long ago left behind."""
        ...


def open_filesystem(root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> Filesystem:
    """Return the file system whose root is a folder, there or not yet, or `s3://bucket/prefix`.

    `store_timeout_s` is for one request to an object store; a failed request is repeated for
    twice as long.

    Raises:
        UsageError: `root` has a scheme that is not supported.
        DependencyError: What speaks to object stores is not installed.
    """
    place = absolute(root)
    if in_object_store(place):
        return open_object_store(place, timeout_s=store_timeout_s)
    return LocalFilesystem(place)


def open_object_store(place: str, *, timeout_s: float) -> ObjectFilesystem:
    """Return the file system of an `s3://bucket/prefix`, in the form that `absolute` gives it.

    Raises:
        DependencyError: What speaks to object stores is not installed.
    """
    try:
        from clipfleet.storage.filesystem.s3 import ObjectFilesystem
    except ImportError as error:
        raise DependencyError(
            f"{place} needs the package obstore ({error}): from a checkout, pip install '.[s3]'"
        ) from error
    return ObjectFilesystem(place, timeout_s=timeout_s)

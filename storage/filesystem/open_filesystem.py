"""The file system of a location: a folder on a disk, or a prefix of an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipfleet.errors import DependencyError
from clipfleet.storage.filesystem.base import Filesystem
from clipfleet.storage.filesystem.local import LocalFilesystem
from clipfleet.storage.filesystem.locations import absolute, in_object_store

if TYPE_CHECKING:
    from clipfleet.storage.filesystem.s3 import ObjectFilesystem

STORE_TIMEOUT_S = 30.0  # for one request to an object store, if no settings are given


def open_filesystem(root: str, *, store_timeout_s: float = STORE_TIMEOUT_S) -> Filesystem:
    """Return the file system below a folder, which need not exist, or below `s3://bucket/prefix`.

    `store_timeout_s` is for one request to an object store; a failed request is repeated for
    twice as long.

    Raises:
        UsageError: `root` has a scheme that is not supported.
        DependencyError: The package for object stores is not installed.
    """
    location = absolute(root)
    if in_object_store(location):
        return open_object_store(location, timeout_s=store_timeout_s)
    return LocalFilesystem(location)


def open_object_store(location: str, *, timeout_s: float) -> ObjectFilesystem:
    """Return the file system of an `s3://bucket/prefix`, in the form that `absolute` returns.

    Raises:
        DependencyError: The package for object stores is not installed.
    """
    try:
        from clipfleet.storage.filesystem.s3 import ObjectFilesystem
    except ImportError as error:
        raise DependencyError(
            f"{location} needs the package obstore ({error}): from a checkout, pip install '.[s3]'"
        ) from error
    return ObjectFilesystem(location, timeout_s=timeout_s)

"""The interface of a file system, and functions over it that all file systems share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Protocol

from clipfleet.errors import UsageError

Names = list[str]


class Filesystem(Protocol):
    """A tree of files below one root; paths are relative to the root, with `/`.

    Every method raises StorageError if the disk or the store refuses; the message has the path
    and the reason. Only `read` and `open` raise FileNotFoundError for a missing file.
    """

    def read(self, path: str) -> bytes: ...

    def open(self, path: str) -> BinaryIO:
        """Return a seekable binary file; the caller closes it."""
        ...

    def create(self, path: str, data: bytes | memoryview) -> bool:
        """Write a new file; return False, and write nothing, if the path exists.

        Exactly one of several writers gets True. The file appears whole, and is on the disk
        when this method returns.
        """
        ...

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Write a new file, or replace an old one; a reader sees either the old or the new one."""
        ...

    def list(self, folder: str) -> Names:
        """Return the sorted names of a folder's entries; a missing folder has none."""
        ...

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None:
        """Remove a file; a missing file is no error."""
        ...

    def tidy(self) -> None:
        """Remove the temporary files of writers that were killed long ago."""
        ...


@contextmanager
def open_if_exists(fs: Filesystem, path: str) -> Iterator[BinaryIO | None]:
    """Open a file that may be missing, as a part that was moved away is: then give None."""
    file = None
    with suppress(FileNotFoundError):
        file = fs.open(path)
    if file is None:
        yield None
    else:
        with file:
            yield file


def check_create_if_absent(fs: Filesystem, root: str) -> None:
    """Create one object twice, and delete it: every commit needs a store that refuses the second.

    `root` is the root of `fs`.

    Raises:
        StorageError: The store does not answer, or refuses the first.
        UsageError: The store accepted both.
    """
    probe = f".clipfleet-probe-{uuid.uuid4().hex}"
    first, second = (fs.create(probe, b"clipfleet") for _ in range(2))
    fs.delete(probe)
    if not first or second:
        raise UsageError(
            f"the store of {root} lets two writers create one object: it must support "
            "If-None-Match, as current versions of S3, MinIO, Ceph and SeaweedFS do"
        )

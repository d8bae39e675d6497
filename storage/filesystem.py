"""The file system handle that a dataset is read and written through.

Object stores belong behind the same protocol later: a conditional PUT
(`If-None-Match: *`) is `create`, a plain PUT is `replace`.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from clipfleet.errors import UsageError
from storage.local_filesystem import LocalFilesystem

_SCHEMES = "a local path or a file:// URL"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

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


def open_filesystem(root: str) -> Filesystem:
    """Return the file system whose root is a folder, there or not yet.

    Raises:
        UsageError: `root` has a scheme that is not supported.
    """
    return LocalFilesystem(local_path(root))


def has_scheme(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return _SCHEME.match(location) is not None


def local_path(location: str) -> str:
    """Return the absolute path of a plain path or a `file://` URL.

    Raises:
        UsageError: Another scheme, another host, or an empty location.
    """
    if not location:
        raise UsageError(f"an empty location: expected {_SCHEMES}")
    if not has_scheme(location):
        return os.path.abspath(location)
    url = urlsplit(location)
    if url.scheme != "file":  # urlsplit makes it lower-case
        raise UsageError(f"{location}: {url.scheme}:// is not supported, only {_SCHEMES}")
    if url.netloc not in ("", "localhost"):
        raise UsageError(f"{location}: names the host {url.netloc!r}; expected file:///path")
    # Not url.path: a '?' or '#' is a character of the path here.
    path = location.split("://", 1)[1][len(url.netloc) :]
    return os.path.abspath(os.fsdecode(unquote_to_bytes(path)))

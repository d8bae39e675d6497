"""Locations that a user or a message names, in one form each.

A dataset lies in a folder, or below a prefix of an object store. Its root has one written form
only, so that two names of one location are equal.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes, urlsplit

from clipfleet.errors import UsageError

_PATHS = "a local path or a file:// URL"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_FOLDER = re.compile(r"[\w.+=@,-]([\w.+=@, -]*[\w.+=@,-])?")  # of an object's key
_ROOT_BYTES = 1024 - 128  # S3's longest key, minus the room for a dataset's own names


def has_scheme(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return _SCHEME.match(location) is not None


def in_object_store(location: str) -> bool:
    """Return whether a location is an `s3://` URL."""
    match = _SCHEME.match(location)
    return match is not None and match["scheme"].lower() == "s3"


def absolute(location: str) -> str:
    """Return the one form of a dataset's or folder's location: a path, or `s3://bucket/prefix`.

    Raises:
        UsageError: It has another scheme, or is an `s3://` URL of another form.
    """
    if in_object_store(location):
        bucket, prefix = split_object_url(location)
        return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    if has_scheme(location) and urlsplit(location).scheme != "file":
        raise UsageError(f"{location}: expected {_PATHS}, or s3://bucket/prefix")
    return local_path(location)


def resolved(location: str) -> str:
    """Return a location as `absolute` does, with the symbolic links of a path resolved.

    Raises:
        UsageError: As `absolute` does.
    """
    location = absolute(location)
    return location if in_object_store(location) else os.path.realpath(location)


def same_location(one: str, other: str) -> bool:
    """Return whether two strings name one location; a string that names none is equal to none."""
    try:
        return resolved(one) == resolved(other)
    except (UsageError, ValueError):
        return False


def below(location: str, name: str) -> str:
    """Return the location of a name inside a folder or prefix."""
    return f"{location}/{name}" if in_object_store(location) else os.path.join(location, name)


def split_object_url(url: str) -> tuple[str, str]:
    """Return the bucket of an `s3://` URL, and the prefix without `/` at its ends.

    Raises:
        UsageError: It has no bucket, or a folder whose name is not plain.
    """
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if "@" in bucket:  # the message does not repeat it: it may be a password
        raise UsageError(
            "an s3:// URL has '@' before its first '/': credentials belong into AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, not into the URL"
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{url}: {bucket!r} is no bucket's name; expected s3://bucket/prefix")
    prefix = prefix.rstrip("/")
    if len(os.fsencode(prefix)) > _ROOT_BYTES:
        raise UsageError(
            f"{url[:100]}…: a prefix of {len(os.fsencode(prefix))} bytes; at most {_ROOT_BYTES} "
            "leave room for a dataset's own names: choose a shorter one"
        )
    for folder in prefix.split("/") if prefix else ():
        if not _FOLDER.fullmatch(folder) or folder in (".", ".."):
            raise UsageError(
                f"{url}: {folder!r} in an s3:// URL is no plain name; use letters, digits, "
                "'-_.+=@,' and blanks between them"
            )
    return bucket, prefix


def local_path(location: str) -> str:
    """Return the absolute path of a plain path or a `file://` URL.

    Raises:
        UsageError: It has another scheme or host, is empty, or has a NUL in it.
    """
    if not location:
        raise UsageError(f"an empty location: expected {_PATHS}")
    if not has_scheme(location):
        return os.path.abspath(location)
    url = urlsplit(location)
    if url.scheme != "file":  # urlsplit makes it lower-case
        raise UsageError(f"{location}: {url.scheme}:// is not supported, only {_PATHS}")
    if url.netloc not in ("", "localhost"):
        raise UsageError(f"{location}: names the host {url.netloc!r}; expected file:///path")
    # Not url.path: here, '?' and '#' are characters of the path.
    path = location.split("://", 1)[1][len(url.netloc) :]
    unquoted = unquote_to_bytes(os.fsencode(path))
    if b"\0" in unquoted:
        raise UsageError(f"{location}: has a NUL (%00) in it, which no path has")
    return os.path.abspath(os.fsdecode(unquoted))


def readable(path: str) -> str:
    """Return a path as text; bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

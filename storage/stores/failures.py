"""The errors of stores as those of disks: each has an errno, a reason and the URL."""

from __future__ import annotations

import errno
from http import HTTPStatus

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from clipfleet.storage.filesystem.remote import Place
from clipfleet.storage.filesystem.s3_errors import advice_on, lacks_length, reason_of, status_of

_RIGHTS = {
    "s3": (
        "give AWS_ACCESS_KEY_ID the right to list and read there; of a public bucket, set "
        "AWS_SKIP_SIGNATURE=true"
    ),
    "gs": (
        "give GOOGLE_APPLICATION_CREDENTIALS the right to list and read there; of a public bucket, "
        "set GOOGLE_SKIP_SIGNATURE=true"
    ),
    "hf": "accept the dataset's terms, and set HF_TOKEN",
    "https": (
        "its server wants credentials, which are not sent, or its index of this folder is off: "
        "turn it on, or name a table or an archive"
    ),
}


def is_denied(error: BaseError) -> bool:
    """Return whether the store refused the credentials."""
    denied = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
    return denied or status_of(error) in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def rights_advice(scheme: str) -> str:
    """Return what to do about refused credentials."""
    return _RIGHTS.get(scheme, _RIGHTS["https"])


def as_os_error(error: BaseError, place: Place) -> OSError:
    """Return the OSError for a store's error; a missing object is a FileNotFoundError before."""
    if is_denied(error):
        reason = f"{reason_of(error)}; {rights_advice(place.scheme)}"
        return PermissionError(errno.EACCES, reason, place.url)
    if status_of(error) == HTTPStatus.NOT_FOUND:  # of a list: there is no such bucket
        return FileNotFoundError(errno.ENOENT, reason_of(error), place.url)
    return OSError(errno.EIO, f"{reason_of(error)}; {_advice(error, place)}", place.url)


def _advice(error: BaseError, place: Place) -> str:
    if isinstance(error, NotSupportedError):
        return "its server gives no ranges of a file: download it"
    if isinstance(error, InvalidPathError):
        return "a key with '//', '.' or '..' in it cannot be listed: rename it, or name a folder"
    if lacks_length(error):
        return "it is a page and no file, and no index of a folder: name a table or an archive"
    if place.scheme == "s3" or isinstance(error, PreconditionError):
        return advice_on(error)
    return "check the network, and that the server runs, and run again"

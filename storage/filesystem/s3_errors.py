"""The errors of object stores: whether to repeat a request, the reason, and the remedy."""

from __future__ import annotations

import re

from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_ANSWER = re.compile(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", re.DOTALL)
_PASSWORD = re.compile(r"//[^/@\s]*@")
_PATH = re.compile(r'Path "(.*?)"', re.DOTALL)
_SHOWN_LENGTH = 300  # characters of a reason
_NO_LENGTH = "Content-Length Header missing"
_WORTH_REPEATING = {408, 409, 429}  # of the statuses 4xx; every 5xx is worth repeating

_ACCESS = "give AWS_ACCESS_KEY_ID the right to list, read, write and delete there"
_REACH = (
    "check AWS_ENDPOINT_URL, AWS_REGION, the credentials, and that the store runs, and run again"
)
_REPLACED = "another program replaced it while it was read: run again"


def is_worth_repeating(error: BaseError) -> bool:
    """Return whether the store or the network failed, and not the request itself."""
    status = status_of(error)
    if status is None:
        return isinstance(error, GenericError) and not lacks_length(error)
    return status >= 500 or status in _WORTH_REPEATING


def lacks_length(error: Exception) -> bool:
    """Return whether a web server did not say how long a file is, as of pages that it makes."""
    return _NO_LENGTH in str(error)


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a store's error; None without an answer."""
    status = _STATUS.search(str(error))
    return int(status[1]) if status else None


def reason_of(error: Exception) -> str:
    """Return the store's answer as one line; the library's error has many lines."""
    text = _PASSWORD.sub("//", str(error).partition("\n\nDebug source")[0])
    status, answer = _STATUS.search(text), _ANSWER.search(text)
    if answer:
        text = ": ".join(part for part in (status and status[1], *answer.groups()) if part)
    return " ".join(text.split())[:_SHOWN_LENGTH]


def advice_on(error: BaseError) -> str:
    """Return the remedy for a store's error."""
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return _ACCESS
    if isinstance(error, PreconditionError):  # only of reads, see `ObjectFilesystem.open`
        return _REPLACED
    if isinstance(error, InvalidPathError):
        path = _PATH.search(str(error))
        named = f"begin with {path[1]!r}" if path else "are so"
        return (
            f"delete or rename the objects in the bucket whose keys {named}: the library cannot "
            "list a folder if a key below it has '//', '.' or '..'; a dataset has no such key"
        )
    return _REACH

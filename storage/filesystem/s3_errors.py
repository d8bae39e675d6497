"""What an object store's refusals mean, and how they are told."""

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
_TOLD = re.compile(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", re.DOTALL)
_PASSWORD = re.compile(r"//[^/@\s]*@")
_PATH = re.compile(r'Path "(.*?)"', re.DOTALL)
_SHOWN_LENGTH = 300  # characters of a reason
_WORTH_REPEATING = {408, 409, 429}  # of what stores refuse; 5xx is theirs, and always is

_ACCESS = "give AWS_ACCESS_KEY_ID the right to list, read, write and delete there"
_REACH = (
    "see that AWS_ENDPOINT_URL, AWS_REGION and the credentials are the store's and that it runs, "
    "and run again"
)
_REPLACED = "another program replaced it while it was read: run again"


def is_worth_repeating(error: BaseError) -> bool:
    """Return whether the store, or the way to it, is to blame, and not the request."""
    status = _STATUS.search(str(error))
    if status is None:
        return isinstance(error, GenericError)
    return int(status[1]) >= 500 or int(status[1]) in _WORTH_REPEATING


def reason_of(error: Exception) -> str:
    """Return what the store said, as one line; the library's own account of it has many."""
    text = _PASSWORD.sub("//", str(error).partition("\n\nDebug source")[0])
    status, told = _STATUS.search(text), _TOLD.search(text)
    if told:
        text = ": ".join(part for part in (status and status[1], *told.groups()) if part)
    return " ".join(text.split())[:_SHOWN_LENGTH]


def advice_on(error: BaseError) -> str:
    """Return what to do about what the store said."""
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return _ACCESS
    if isinstance(error, PreconditionError):  # asked for in reads only, see `open`
        return _REPLACED
    if isinstance(error, InvalidPathError):
        path = _PATH.search(str(error))
        named = f"begin with {path[1]!r}" if path else "are so"
        return (
            f"delete or rename the objects in the bucket whose keys {named}: the library lists no "
            "folder with '//', '.' or '..' in a key below it, and a dataset has none"
        )
    return _REACH

"""The classes of error that an item can end in: `error` in the errors table."""

from __future__ import annotations

from collections.abc import Collection

from clipfleet.errors import UsageError

EMPTY_FILE = "empty_file"

MISSING = "missing"

NOT_A_FILE = "not_a_file"

NOT_ALLOWED = "not_allowed"  # below none of the worker's input roots, or a URL it may not fetch

PERMISSION_DENIED = "permission_denied"

READ_FAILED = "read_failed"

UNSUPPORTED_FORMAT = "unsupported_format"

DECODE_FAILED = "decode_failed"

DECODE_TIMEOUT = "decode_timeout"  # decoded alone it took too long, every time

DECODER_CRASHED = "decoder_crashed"  # decoded alone it ended its process, every time

TOO_LARGE = "too_large"

EMPTY_TEXT = "empty_text"

NON_FINITE = "non_finite"

BAD_ITEM = "bad_item"  # queued by itself, and not of the form that its task takes

HTTP_ERROR = "http_error"  # a server's answer that is not the image and will not be

# Transient: tried several times, and worth a retry later.
DISK_ERROR = "disk_error"  # a disk, of the network most likely, did not give it

FETCH_TIMEOUT = "fetch_timeout"  # a server did not answer in time, or too slowly

FETCH_FAILED = "fetch_failed"  # no connection, or one that was cut off

SERVER_BUSY = "server_busy"  # HTTP 408, 425, 429, 5xx

ENGINE_CRASHED = "engine_crashed"  # queued by itself; its batch ended the engine's process

ENGINE_FAILED = "engine_failed"  # queued by itself; the engine failed on its message

ERROR_CODES = (
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    UNSUPPORTED_FORMAT,
    DECODE_FAILED,
    DECODE_TIMEOUT,
    DECODER_CRASHED,
    TOO_LARGE,
    EMPTY_TEXT,
    NON_FINITE,
    BAD_ITEM,
    HTTP_ERROR,
    DISK_ERROR,
    FETCH_TIMEOUT,
    FETCH_FAILED,
    SERVER_BUSY,
    ENGINE_CRASHED,
    ENGINE_FAILED,
)

TRANSIENT_CODES = frozenset(
    {DISK_ERROR, FETCH_TIMEOUT, FETCH_FAILED, SERVER_BUSY, ENGINE_CRASHED, ENGINE_FAILED}
)

TRANSIENT = "transient"  # the name of all transient classes together


def chosen_classes(only: Collection[str]) -> list[str]:
    """Return the classes that `only` names, each once; "transient" names all transient ones.

    Raises:
        UsageError: A name is not the name of a class.
    """
    found: dict[str, None] = {}
    for name in only:
        if name not in (*ERROR_CODES, TRANSIENT):
            known = ", ".join((*ERROR_CODES, TRANSIENT))
            raise UsageError(f"{name!r} is not a class of error; the classes are {known}")
        named = [code for code in ERROR_CODES if code in TRANSIENT_CODES]
        found |= dict.fromkeys(named if name == TRANSIENT else [name])
    return list(found)

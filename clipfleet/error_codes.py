"""The error classes of items: the values of the column `error` in the errors table."""

from __future__ import annotations

from collections.abc import Collection

from clipfleet.errors import UsageError

EMPTY_FILE = "empty_file"

MISSING = "missing"

NOT_A_FILE = "not_a_file"

NOT_ALLOWED = "not_allowed"  # outside the worker's input roots, or on a host that is not allowed

PERMISSION_DENIED = "permission_denied"

READ_FAILED = "read_failed"

UNSUPPORTED_FORMAT = "unsupported_format"

NOT_8_BIT = "not_8_bit"  # the original's transform makes a white or black picture of it

DECODE_FAILED = "decode_failed"

DECODE_TIMEOUT = "decode_timeout"  # exceeded the time limit at each attempt in its own process

DECODER_CRASHED = "decoder_crashed"  # ended its own process at each attempt

TOO_LARGE = "too_large"

EMPTY_TEXT = "empty_text"

NON_FINITE = "non_finite"

BAD_ITEM = "bad_item"  # a single item, or a row of a table, without what an item has

REPLACED = "replaced"  # newer content of the id is being embedded, by a job that has the id

REMOVED = "removed"  # `clipfleet remove --ids` took it out

GONE = "gone"  # `clipfleet remove --missing` took it out: its file was deleted

HTTP_ERROR = "http_error"  # a permanent answer of the server that is not the image

# Transient: the worker tried several times, and a later `clipfleet retry` may succeed.
DISK_ERROR = "disk_error"  # a read error of a disk, often a network disk

FETCH_TIMEOUT = "fetch_timeout"  # the server sent nothing, or too little, within the time limit

FETCH_FAILED = "fetch_failed"  # no connection, or a connection that was cut off

SERVER_BUSY = "server_busy"  # HTTP 408, 425, 429, 5xx

ENGINE_CRASHED = "engine_crashed"  # a single item whose batch ended the engine's process

ENGINE_FAILED = "engine_failed"  # a single item whose message the engine failed on

ERROR_CODES = (
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    UNSUPPORTED_FORMAT,
    NOT_8_BIT,
    DECODE_FAILED,
    DECODE_TIMEOUT,
    DECODER_CRASHED,
    TOO_LARGE,
    EMPTY_TEXT,
    NON_FINITE,
    BAD_ITEM,
    REPLACED,
    REMOVED,
    GONE,
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

# Tombstones: no failures, but what was taken out of a dataset. A retry takes them if it names them.
TOMBSTONES = frozenset({REMOVED, GONE})

TRANSIENT = "transient"  # names all transient classes, in `--only`


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

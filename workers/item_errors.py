"""The messages of items' errors: printable, of bounded length, with names quoted."""

from __future__ import annotations

import re

from clipfleet.errors import ItemError
from clipfleet.validation import printable

MAX_MESSAGE_LENGTH = 300  # characters

_ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")


def item_error(code: str, message: str) -> ItemError:
    """Return an error with a printable message, without object addresses and not too long."""
    message = printable(_ADDRESS.sub("…", message))
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    return ItemError(code, message)


def shown(name: str) -> str:
    """Return a name for messages: quoted, with escapes, and without its middle if it is long."""
    quoted = ascii(name) if not name.isprintable() else repr(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:40]}…{quoted[-79:]}"

"""Ids, texts and paths of others, as a terminal and a page show them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote, urlsplit

from clipfleet.errors import UsageError
from clipfleet.storage.filesystem.locations import has_scheme, local_path

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_ESCAPED = ("Cc", "Cs")  # control characters, and bytes of a path that are not UTF-8


def visible(text: str) -> str:
    """Return a text in which each control character, and each that turns the order, is escaped.

    A terminal obeys the ones, and both show an id in another order for the others.
    """
    return "".join(
        f"\\u{ord(one):04x}" if one in _REORDERING or unicodedata.category(one) in _ESCAPED else one
        for one in text
    )


def shortened(text: str, characters: int) -> str:
    """Return a text of at most so many characters, with an ellipsis if it was cut."""
    return text if len(text) <= characters else f"{text[:characters]}…"


def short_path(uri: str) -> str:
    """Return a path below the working folder as a relative one, and any other uri as it is."""
    return os.path.relpath(uri) if uri.startswith(f"{Path.cwd()}{os.sep}") else uri


def link_of(uri: str) -> str | None:
    """Return the address that a page may link to: of a file, or of the web; of others None."""
    if has_scheme(uri) and urlsplit(uri).scheme in ("http", "https"):
        return uri
    try:
        return f"file://{quote(os.fsencode(local_path(uri)))}"
    except UsageError:
        return None

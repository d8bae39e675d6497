"""Validation errors in one line: the field, the problem and the value."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOWN_CHARACTERS = 80
_SHOWN_PROBLEMS = 5
# Errors of a field's name: the value does not matter, and may be a secret.
_NAME_ERRORS = {"missing", "extra_forbidden"}


def problems(error: Exception, *, hidden: Collection[str] = ()) -> str:
    """Return the problems, field by field; for an error that is not pydantic's, its text.

    The values of `hidden` fields are not shown.
    """
    from pydantic import ValidationError  # slow to import: a decoder shows no such error

    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False)
    shown = [
        f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
        + (f" (got {_short(problem['input'])})" if _shows_value(problem, hidden) else "")
        for problem in found[:_SHOWN_PROBLEMS]
    ]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _shows_value(problem: ErrorDetails, hidden: Collection[str]) -> bool:
    named = problem["loc"][0] if problem["loc"] else ""
    return problem["type"] not in _NAME_ERRORS and named not in hidden


def _short(value: object) -> str:
    return shortened(value, _SHOWN_CHARACTERS)


def printable(text: str) -> str:
    """Return an untrusted text for a terminal: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(value: object, characters: int) -> str:
    """Return the value's repr for a message, cut at so many characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep; an integer too long to print
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= characters else f"{text[:characters]}…"

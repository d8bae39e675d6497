"""Validation errors in one line: which field, what is wrong with it, what it was."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_SHOWN_CHARACTERS = 80
_SHOWN_PROBLEMS = 5
# Of these the name is wrong, or missing: the value says nothing, and may be a secret.
_OF_THE_NAME = {"missing", "extra_forbidden"}


def problems(error: Exception, *, hidden: Collection[str] = ()) -> str:
    """Return what is wrong, field by field; of other errors than pydantic's, their text.

    The values of `hidden` fields are not shown.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False)
    shown = [
        f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
        + (f" (got {_short(problem['input'])})" if _is_told(problem, hidden) else "")
        for problem in found[:_SHOWN_PROBLEMS]
    ]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _is_told(problem: ErrorDetails, hidden: Collection[str]) -> bool:
    named = problem["loc"][0] if problem["loc"] else ""
    return problem["type"] not in _OF_THE_NAME and named not in hidden


def _short(value: object) -> str:
    return shortened(value, _SHOWN_CHARACTERS)


def printable(text: str) -> str:
    """Return a text that anybody wrote as a terminal may be given it: controls as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(value: object, characters: int) -> str:
    """Return a value as a message shows it, whatever its size or depth."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep; an integer too long to print
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= characters else f"{text[:characters]}…"

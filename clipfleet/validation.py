"""Validation errors in one line: which field, what is wrong with it, what it was."""

from __future__ import annotations

from pydantic import ValidationError

_SHOWN_CHARACTERS = 80
_SHOWN_PROBLEMS = 5


def problems(error: Exception) -> str:
    """Return what is wrong, field by field; of other errors than pydantic's, their text."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False)
    shown = [
        f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}"
        + ("" if problem["type"] == "missing" else f" (got {_short(problem['input'])})")
        for problem in found[:_SHOWN_PROBLEMS]
    ]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _short(value: object) -> str:
    return shortened(value, _SHOWN_CHARACTERS)


def shortened(value: object, characters: int) -> str:
    """Return a value as a message shows it, whatever its size or depth."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep; an integer too long to print
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= characters else f"{text[:characters]}…"

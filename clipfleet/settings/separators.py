"""The settings that are lists: what separates their values in an environment variable."""

from __future__ import annotations

import re

ROOT_SEPARATOR = ":"  # between folders in an environment variable, as in PATH
HOST_SEPARATOR = ","  # between hosts, whose ports need the colon
SEPARATORS = {  # of the settings that are lists
    "input_roots": ROOT_SEPARATOR,
    "models": ROOT_SEPARATOR,
    "url_hosts": HOST_SEPARATOR,
    "url_private_hosts": HOST_SEPARATOR,
    "url_schemes": HOST_SEPARATOR,
}
_BETWEEN_ROOTS = re.compile(f"{ROOT_SEPARATOR}(?!//)")  # not the colon of s3://


def split_list(name: str, text: str) -> tuple[str, ...]:
    """Return the values of a setting that is a list."""
    # An empty list of hosts allows none. An empty list of roots would allow all: it is refused.
    if name == "input_roots":
        return tuple(_BETWEEN_ROOTS.split(text))
    return tuple(text.split(SEPARATORS[name])) if text else ()

"""Arguments of the form NAME=PATH: a file or folder, and its name in a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def named(argument: str) -> tuple[str, Path]:
    """Return what an argument names, for argparse's `type`."""
    name, separator, path = argument.partition("=")
    if not name or not separator or not path:
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=PATH")
    return name, Path(path)


def by_name(
    parser: argparse.ArgumentParser, arguments: Sequence[tuple[str, Path]]
) -> dict[str, Path]:
    """Return the paths by name, in their order; a name that is given twice ends the program."""
    found = dict(arguments)
    if len(found) < len(arguments):
        names = ", ".join(name for name, _ in arguments)
        parser.error(f"each name stands for one path: {names}")
    return found

"""Messages, exit codes and logging of the guide's commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from clipfleet.architectures import Tower

TOWER_NAMES: Mapping[Tower, str] = {"txt": "text", "img": "vision"}
WRONG_USE, INTERRUPTED, TERMINATED = 2, 130, 143  # exit codes


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

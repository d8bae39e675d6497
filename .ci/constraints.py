"""Write constraints.txt from what is installed for two Pythons: `make constraints` calls this.

    .ci/constraints.py PYTHON_3.11 PYTHON_3.10

A version that both have gets one line; where they differ, each gets one with a marker.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAD = """\
# What CI installs: CPython 3.11, and 3.10 for the wheel and the images for GPUs. `make constraints`
# writes this file; raise a version after the whole suite has passed with it.
"""


def pins(freeze: str) -> dict[str, str]:
    """Return versions by name, of what `pip freeze` printed; local parts (`+cpu`) are left out."""
    lines = (line.partition("==") for line in freeze.splitlines() if " @ " not in line)
    return {
        name.lower().replace("_", "-"): version.partition("+")[0]
        for name, equal, version in lines
        if equal
    }


def merged(newer: dict[str, str], older: dict[str, str]) -> str:
    """Return the text of a constraints file for CPython 3.11 and above, and for 3.10."""
    lines = []
    for name in sorted(newer.keys() | older.keys()):
        versions = [pinned[name] for pinned in (newer, older) if name in pinned]
        if len(set(versions)) == 1:
            lines.append(f"{name}=={versions[0]}")
        else:
            lines.append(f'{name}=={newer[name]}; python_version >= "3.11"')
            lines.append(f'{name}=={older[name]}; python_version < "3.11"')
    return HEAD + "\n".join(lines) + "\n"


def _installed(python: str) -> dict[str, str]:
    freeze = [python, "-m", "pip", "freeze", "--exclude-editable"]
    share = Path(python).parents[1] / "share"
    folders = [share / name for name in ("readers", "tracing", "databases")]  # as in the Makefile
    commands = [freeze, *([*freeze, "--path", str(one)] for one in folders if one.exists())]
    ran = [subprocess.run(one, check=True, capture_output=True, text=True) for one in commands]
    return pins("".join(run.stdout for run in ran))


if __name__ == "__main__":
    text = merged(*map(_installed, sys.argv[1:]))
    Path(__file__).parents[1].joinpath("constraints.txt").write_text(text)

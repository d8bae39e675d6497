"""A Python block of a page, run in this process or another; and what its names hold afterwards.

pandas, and Hugging Face's datasets which needs it, are in a folder of their own (`make install`):
pyarrow imports an installed pandas in every process that makes an array, for half a second. The
clients of databases are large, and have another one (`make databases`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

READERS = Path(sys.prefix, "share", "readers")  # as in the Makefile
DATABASES = Path(sys.prefix, "share", "databases")
_ROOT = Path(__file__).parents[1]
_LIMIT_S = 120.0


def packages_of(block: str) -> list[str]:
    """Return the packages that a block imports."""
    return re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)


def missing_packages(block: str) -> list[str]:
    """Return those of a block's packages that are not installed anywhere."""
    return [
        name
        for name in packages_of(block)
        if importlib.util.find_spec(name) is None
        and not any((folder / name).exists() for folder in (READERS, DATABASES))
    ]


def run_block(block: str) -> dict[str, Any]:
    """Run a block in the working folder, with what is installed for readers if it needs that."""
    if all(importlib.util.find_spec(name) for name in packages_of(block)):
        return found_by(block)
    done = subprocess.run(
        [sys.executable, "-m", "tests.page_blocks"],
        input=block,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (READERS, DATABASES, _ROOT)))},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def found_by(block: str) -> dict[str, Any]:
    """Run a block; return its `rows`, `model`, `errors`, and the shape and dtype of `vectors`.

    `nearest` are ids and scores, best first; of these, the first.
    """
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - the page is ours
    found: dict[str, Any] = {one: names[one] for one in ("rows", "model") if one in names}
    vectors = names.get("vectors")
    if isinstance(vectors, np.ndarray):
        found |= {"shape": list(vectors.shape), "dtype": str(vectors.dtype)}
    if "nearest" in names:
        found["nearest"] = [str(names["nearest"][0][0]), float(names["nearest"][0][1])]
    errors = names.get("errors")
    if errors is not None:
        found["errors"] = errors if isinstance(errors, list) else errors["id"].to_list()
        found["shown"] = str(errors)
    return found


if __name__ == "__main__":
    print(json.dumps(found_by(sys.stdin.read())))

"""Helpers of the GPU tests: the demo's pictures, commands as processes, vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]


def draw(folder: Path, count: int) -> Path:
    """Draw so many of the demo's pictures, with captions, into a folder, and return it."""
    command = [sys.executable, "examples/demo/scenes.py", str(folder), "--count", str(count)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def clipfleet(
    *arguments: str | Path, timeout_s: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a command, and return its JSON result."""
    run = subprocess.run(
        [sys.executable, "-m", "clipfleet", *map(str, arguments), "--json"],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def vectors(dataset: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return a dataset's ids in order, and their vectors: float32 (n, D)."""
    table = pq.read_table(dataset / "parts").sort_by("id")
    column = table["embedding"].combine_chunks()
    flat = np.asarray(column.values.to_numpy(zero_copy_only=False), np.float32)
    return table["id"].to_pylist(), flat.reshape(len(table), -1)

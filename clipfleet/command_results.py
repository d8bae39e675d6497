"""What a command leaves: its result on standard output, and its exit code."""

from __future__ import annotations

import json
from typing import Any

import typer

DONE, ITEMS_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
GPU_LOST = 1  # a supervisor may start the worker again, as it may not one that was refused


def print_result(result: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print a command's result: one JSON object, or lines for people."""
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else "\n".join(lines))

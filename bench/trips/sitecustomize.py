"""Record the modules of clipfleet that a process enters; `bench.trips` puts this on PYTHONPATH.

A module is entered when one of its functions is called; what runs at import does not count. Each
new module is one line of `$TRIPS_OUT/PID.txt`, written at once: a worker's child may be killed.
`$TRIPS_INSIDE`, "FILE_END:FUNCTION", counts only while such a function runs (in any thread).
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_OPTIMIZED = 0x1  # a function's code; the bodies of modules and classes have it not

_root = os.environ["TRIPS_ROOT"]
_out = Path(os.environ["TRIPS_OUT"])
_file_end, _, _function = os.environ.get("TRIPS_INSIDE", "").partition(":")
_seen: dict[str, bool] = {}  # by file name: whether it counts and was not written yet
_inside = 0


def _counts(path: str) -> bool:
    inner = os.path.realpath(path)
    if not inner.startswith(_root + os.sep):
        return False
    top = inner[len(_root) + 1 :].split(os.sep)[0]
    return top in {"clipfleet", "storage", "workers", "tasks", "convert"}


def _is_marker(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == _function and code.co_filename.endswith(_file_end)


def _on_event(frame: FrameType, event: str, _argument: Any) -> None:
    global _inside  # noqa: PLW0603
    if event not in {"call", "return"}:
        return
    if _function and _is_marker(frame):
        _inside += 1 if event == "call" else -1
    if event == "return" or (_function and not _inside):
        return
    code = frame.f_code
    if not code.co_flags & _OPTIMIZED:
        return
    path = code.co_filename
    if path not in _seen:
        _seen[path] = _counts(path)
    if _seen[path]:
        _seen[path] = False
        with (_out / f"{os.getpid()}.txt").open("a", encoding="utf-8") as file:
            file.write(os.path.realpath(path)[len(_root) + 1 :] + "\n")


sys.setprofile(_on_event)
threading.setprofile(_on_event)

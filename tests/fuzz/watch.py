"""The files that Python opens, lists or changes while an input runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link"} | {
    *("os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod", "os.utime"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move"),
}
# What starts a program, or speaks to a network.
_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"}
# Modules that are imported when they are first needed, and what they read.
_OWN = (
    sys.prefix,
    sys.base_prefix,
    str(Path(__file__).parents[2]),
    "/proc/",
    "/usr/share/zoneinfo",
)


class Escape(BaseException):
    """A file outside the allowed folder was touched: no error handling may hide it."""


class Watch:
    """An audit hook, for ever: there is no way to take one away."""

    def __init__(self, folder: Path) -> None:
        self._allowed = (str(folder), *_OWN)
        self._found: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in _FORBIDDEN:
            self._found.append(f"{event}{arguments!r:.200}")
        elif event in _FILE_EVENTS:
            for path in arguments[:2]:
                if isinstance(path, str | bytes) and len(path) > 2:
                    self._look(event, os.path.abspath(os.fsdecode(path)))

    def _look(self, event: str, path: str) -> None:
        if not path.startswith(self._allowed):
            self._found.append(f"{event}: {path}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raise `Escape` at the end if anything elsewhere was touched."""
        self._found.clear()
        self._on = True
        try:
            yield
        finally:
            self._on = False
        if self._found:
            raise Escape(f"touched outside the folder: {self._found[:5]}")

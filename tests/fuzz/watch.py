"""The files that Python opens, lists or changes while an input runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# How many of an event's first arguments are paths.
_CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate"), 1),
    **dict.fromkeys(("os.chmod", "os.chown", "os.utime"), 1),
    **dict.fromkeys(("os.rename", "os.link"), 2),
}
_LISTS = {"os.listdir": 1, "os.scandir": 1}
_TO_CHANGE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Calls that start a program or use a network.
_FORBIDDEN = {
    *("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"),
    *("socket.connect", "socket.getaddrinfo"),
}
# Folders to read and never to write: modules are imported on demand.
_READ = tuple(
    os.path.realpath(place)
    for place in (
        sys.prefix,
        sys.base_prefix,
        Path(__file__).parents[2],
        "/proc",
        "/usr/share/zoneinfo",
    )
)


class Escape(BaseException):
    """A file outside the allowed folder was touched: no error handling may hide it."""


class Watch:
    """An audit hook, for ever: there is no way to take one away."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._found: list[str] = []
        self._on = False
        self._read = _READ
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in _FORBIDDEN:
            self._found.append(f"{event}{arguments!r:.200}")
        elif event == "open":
            self._look(event, arguments[0], changes=bool(arguments[2] & _TO_CHANGE))
        elif event == "os.symlink":
            self._look(event, arguments[1], changes=True)  # where it leads is not opened by that
        else:
            for path in arguments[: _CHANGES.get(event, 0)]:
                self._look(event, path, changes=True)
            for path in arguments[: _LISTS.get(event, 0)]:
                self._look(event, path, changes=False)

    def _look(self, event: str, path: Any, *, changes: bool) -> None:
        if not isinstance(path, str | bytes):
            return  # a descriptor of an open file
        real = os.path.realpath(os.fsdecode(path))
        allowed = (self._folder,) if changes else (self._folder, *self._read)
        if not any(real == place or real.startswith(f"{place}/") for place in allowed):
            self._found.append(f"{event}: {real}")

    @contextmanager
    def watching(self, *, reads_anything: bool = False) -> Iterator[None]:
        """Raise `Escape` at the end if anything elsewhere was touched."""
        self._found.clear()
        self._read = ("",) if reads_anything else _READ
        # Imports must write no __pycache__; nothing else has to be written.
        sys.dont_write_bytecode, writes_not = True, sys.dont_write_bytecode
        self._on = True
        try:
            yield
        finally:
            self._on = False
            sys.dont_write_bytecode = writes_not
        if self._found:
            raise Escape(f"touched outside the folder: {self._found[:5]}")

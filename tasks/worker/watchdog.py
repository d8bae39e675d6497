"""The deadline: a child that gets nothing done for so long is killed, its work goes back to Redis.

A worker and its child share a few bytes of memory. The child counts in them as items get done;
the worker looks, and needs no answer: a child that hangs with Python's lock held cannot give one.
What is slow and goes on is left alone, however long it takes in all.

The memory has no name in a folder: nothing cleans it away under a worker that runs for weeks, and
a worker that is killed leaves nothing. A child finds it among its worker's open files.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import struct
import threading
from collections.abc import Iterator
from functools import cache

from billiard.process import active_children

from clipfleet.errors import UsageError
from clipfleet.settings import PREFIX

_VARIABLE = f"{PREFIX}WATCHED_FILE"  # between a worker and its child
_STATE = struct.Struct("=qq")  # the pid that works, 0: nobody does; how often it got on
_PAUSE_S = 1.0  # between looks
_MIN_LOOKS = 4

log = logging.getLogger(__name__)


class Working:
    """The child's side: what it does in `with working.at_work():` has the deadline."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._state = shared
        self._lock = threading.Lock()
        self._at_work = False
        self._count = 0

    def progress(self) -> None:
        """Say that something got done; from any thread, and of no effect after the work."""
        with self._lock:
            self._count += 1
            if self._at_work:
                _STATE.pack_into(self._state, 0, os.getpid(), self._count)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self._at_work = True
        self.progress()
        try:
            yield
        finally:
            with self._lock:
                self._at_work = False
                _STATE.pack_into(self._state, 0, 0, self._count)


@cache
def working() -> Working:
    """Return this process's side of what its worker watches.

    Raises:
        UsageError: This process cannot open it.
    """
    return Working(_open())


@contextlib.contextmanager
def watchdog(deadline_s: float) -> Iterator[None]:
    """Watch this worker's child; for the whole life of the worker, a drain included."""
    with _shared_with_children() as state:
        stop = threading.Event()
        arguments = (state, deadline_s, stop)
        thread = threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def _shared_with_children() -> Iterator[mmap.mmap]:
    """Yield zeros, which `_open` finds in children by an environment variable.

    Raises:
        UsageError: This machine has no /proc.
    """
    file = os.memfd_create(_VARIABLE.lower())
    try:
        os.ftruncate(file, _STATE.size)
        os.environ[_VARIABLE] = f"/proc/{os.getpid()}/fd/{file}"
        yield _open()
    finally:
        os.environ.pop(_VARIABLE, None)
        os.close(file)


def _open() -> mmap.mmap:
    """Return the bytes that a worker shares with this process; its own where there is none.

    Raises:
        UsageError: This process may not open them.
    """
    path = os.environ.get(_VARIABLE)
    if not path:
        return mmap.mmap(-1, _STATE.size)
    try:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), _STATE.size)
    except OSError as error:
        raise UsageError(
            f"cannot open {path}, the memory that a worker shares with its child: "
            f"{error.strerror}; have /proc mounted, and let nothing keep a process from the "
            "open files of another one of its user (SELinux, AppArmor, a worker made undumpable)"
        ) from error


def _watch(state: mmap.mmap, deadline_s: float, stop: threading.Event) -> None:
    """Count looks, not seconds: a worker that was stopped with its child kills nobody for that."""
    pause_s = min(_PAUSE_S, deadline_s / _MIN_LOOKS)
    last, idle_s = _STATE.unpack_from(state), 0.0
    while not stop.wait(pause_s):
        seen = _STATE.unpack_from(state)
        idle_s = idle_s + pause_s if seen == last else 0.0
        last = seen
        pid = seen[0]
        if pid and idle_s >= deadline_s:
            idle_s = 0.0
            _kill(pid, deadline_s)


def _kill(pid: int, deadline_s: float) -> None:
    """Kill the child; Celery gives back what a lost child had in hand."""
    if any(child.pid == pid for child in active_children()):  # else it is dead already
        told = {"pid": pid, "deadline_s": deadline_s}
        log.error("nothing done within the deadline, child killed", extra=told)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

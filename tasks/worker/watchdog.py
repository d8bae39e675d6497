"""The watchdog: kills a child that makes no progress within the deadline.

Its messages then go back to Redis. A worker and its children share a few bytes of memory: each
child increments a counter as items get done, and the worker reads it. This works even if a child
hangs while it holds Python's global lock. Slow work with progress has no time limit.

The memory is an anonymous file, so no cleaner of temporary folders deletes it, and a killed worker
leaves nothing behind. A child opens it among its worker's open files.
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
from clipfleet.tasks.worker.engine_processes import process_number

_VARIABLE = f"{PREFIX}WATCHED_FILE"  # between a worker and its children
_STATE = struct.Struct("=qq")  # of a child: its pid at work (0: none), the progress counter
_PAUSE_S = 1.0  # between two reads
_MIN_READS = 4  # per deadline

log = logging.getLogger(__name__)


class Working:
    """The child's side: the deadline applies inside `with working.at_work():`."""

    def __init__(self, shared: mmap.mmap, number: int = 0) -> None:
        """Use the place of the child `number`, counted from 0."""
        self._state = shared
        self._start = number * _STATE.size
        self._lock = threading.Lock()
        self._at_work = False
        self._count = 0

    def progress(self) -> None:
        """Count progress, from any thread; without effect after the work."""
        with self._lock:
            self._count += 1
            if self._at_work:
                _STATE.pack_into(self._state, self._start, os.getpid(), self._count)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self._at_work = True
        self.progress()
        try:
            yield
        finally:
            with self._lock:
                self._at_work = False
                _STATE.pack_into(self._state, self._start, 0, self._count)


@cache
def working() -> Working:
    """Return this process's side of the memory that its worker watches.

    Raises:
        UsageError: This process cannot open the memory.
    """
    return Working(_open(), process_number())


@contextlib.contextmanager
def watchdog(deadline_s: float, children: int) -> Iterator[None]:
    """Watch this worker's children until the worker ends."""
    with _shared_with_children(children) as state:
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
def _shared_with_children(count: int) -> Iterator[mmap.mmap]:
    """Yield zeroed memory, which `_open` finds in a child by an environment variable.

    Raises:
        UsageError: This machine has no /proc.
    """
    file = os.memfd_create(_VARIABLE.lower())
    try:
        os.ftruncate(file, count * _STATE.size)
        os.environ[_VARIABLE] = f"/proc/{os.getpid()}/fd/{file}"
        yield _open()
    finally:
        os.environ.pop(_VARIABLE, None)
        os.close(file)


def _open() -> mmap.mmap:
    """Return the memory that the worker shares with this process; private memory without a worker.

    Raises:
        UsageError: This process may not open it.
    """
    path = os.environ.get(_VARIABLE)
    if not path:
        return mmap.mmap(-1, _STATE.size)
    try:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), 0)
    except OSError as error:
        raise UsageError(
            f"cannot open {path}, the memory that a worker shares with its children: "
            f"{error.strerror}; have /proc mounted, and let nothing keep a process from the "
            "open files of another one of its user (SELinux, AppArmor, a worker made undumpable)"
        ) from error


def _watch(state: mmap.mmap, deadline_s: float, stop: threading.Event) -> None:
    """Count reads, not clock time, so that a suspended worker and child lose no deadline."""
    pause_s = min(_PAUSE_S, deadline_s / _MIN_READS)
    last = list(_STATE.iter_unpack(state))
    idle_s = [0.0] * len(last)
    while not stop.wait(pause_s):
        for number, seen in enumerate(_STATE.iter_unpack(state)):
            idle_s[number] = idle_s[number] + pause_s if seen == last[number] else 0.0
            last[number] = seen
            pid = seen[0]
            if pid and idle_s[number] >= deadline_s:
                idle_s[number] = 0.0
                _kill(pid, deadline_s)


def _kill(pid: int, deadline_s: float) -> None:
    """Kill the child; Celery then puts its messages back."""
    if any(child.pid == pid for child in active_children()):  # otherwise it is dead already
        fields = {"pid": pid, "deadline_s": deadline_s}
        log.error("nothing done within the deadline, child killed", extra=fields)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

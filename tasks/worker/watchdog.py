"""The watchdog: kills a child that makes no progress within the deadline.

Its messages then go back to Redis. A worker and its children share a few bytes of memory: each
child increments a counter as it gets on, and counts its items; the worker reads both. This works
even if a child hangs while it holds Python's global lock. Slow work that gets on has no time limit.

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
from dataclasses import dataclass
from functools import cache

from billiard.process import active_children

from clipfleet.errors import UsageError
from clipfleet.settings import PREFIX
from clipfleet.tasks.worker.engine_processes import process_number

_VARIABLE = f"{PREFIX}WATCHED_FILE"  # between a worker and its children
# Of a child: its pid at work (0: none), the progress counter, the items that it and those before it
# in its place got done, and how many these were when the present work began.
_STATE = struct.Struct("=qqqq")
_PAUSE_S = 1.0  # between two reads
_MIN_READS = 4  # per deadline

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildState:
    """What a child tells its worker: `pid` is 0 unless it is at work.

    `items` counts those that were done in the child's place since the worker's start, `in_work`
    those of the present work.
    """

    pid: int
    items: int
    in_work: int


def child_states(shared: mmap.mmap) -> list[ChildState]:
    """Return the states of a worker's children, in the order of their places."""
    return [
        ChildState(pid=pid, items=items, in_work=max(0, items - begin))
        for pid, _, items, begin in _STATE.iter_unpack(shared[:])
    ]


class Working:
    """The child's side: the deadline applies inside `with working.at_work():`."""

    def __init__(self, shared: mmap.mmap, number: int = 0) -> None:
        """Use the place of the child `number`, counted from 0."""
        self._state = shared
        self._start = number * _STATE.size
        self._lock = threading.Lock()
        self._at_work = False
        self._count = 0
        self._items = self._begin = _STATE.unpack_from(shared, self._start)[2]

    def progress(self, items: int = 0) -> None:
        """Count progress, and items that got done, from any thread; no effect after the work."""
        with self._lock:
            self._count += 1
            if self._at_work:
                self._items += items
                self._write(os.getpid())

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with self._lock:
            self._at_work = True
            self._begin = self._items
        self.progress()
        try:
            yield
        finally:
            with self._lock:
                self._at_work = False
                self._write(0)

    def _write(self, pid: int) -> None:
        _STATE.pack_into(self._state, self._start, pid, self._count, self._items, self._begin)


@cache
def working() -> Working:
    """Return this process's side of the memory that its worker watches.

    Raises:
        UsageError: This process cannot open the memory.
    """
    return Working(open_shared(), process_number())


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
    """Yield zeroed memory, which `open_shared` finds in a child by an environment variable.

    Raises:
        UsageError: This machine has no /proc.
    """
    file = os.memfd_create(_VARIABLE.lower())
    try:
        os.ftruncate(file, count * _STATE.size)
        os.environ[_VARIABLE] = f"/proc/{os.getpid()}/fd/{file}"
        yield open_shared()
    finally:
        os.environ.pop(_VARIABLE, None)
        os.close(file)


def open_shared() -> mmap.mmap:
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

"""The lock on a folder in which engines are built: one process builds, the others wait."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfleet.errors import UsageError

LOCK_NAME = ".lock"
_STALE_FOLDERS = ".*.converting-*"  # of killed builds, see clipfleet.convert.staging

Progress = Callable[[str], None]


@contextmanager
def build_lock(folder: Path, what: str, *, progress: Progress, remedy: str) -> Iterator[None]:
    """Hold the lock on a folder, which is made, and remove what killed builds left in it.

    The lock of a process that died is free. `progress` is told that another process builds `what`.
    `remedy` is the way out where the folder cannot be written.

    Raises:
        UsageError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_NAME, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UsageError(
            f"cannot write to the folder {folder}: {error.strerror}; {remedy}"
        ) from error
    with lock:
        _take(lock.fileno(), what, progress)
        os.truncate(lock.fileno(), 0)
        lock.write(str(os.getpid()))
        lock.flush()
        for stale in folder.glob(_STALE_FOLDERS):
            shutil.rmtree(stale, ignore_errors=True)
        yield


def _take(lock: int, what: str, progress: Progress) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace") or "unknown"
        progress(f"waiting for {what}, which process {holder} is building")
        fcntl.flock(lock, fcntl.LOCK_EX)

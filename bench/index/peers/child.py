"""A measured process: its time, its CPU time and its peak of memory."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK_S = 0.05
_CHARACTERS = 300  # of an error that are kept: its end


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a process used; `peak_bytes` is of anonymous memory, without mapped files."""

    seconds: float
    cpu_s: float
    peak_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_s=self.cpu_s + other.cpu_s,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that ended; `error` has the end of what it wrote if it failed."""

    cost: Cost
    output: str
    error: str | None


def run_child(
    command: Sequence[str],
    *,
    kill_when: Callable[[], bool] = lambda: False,
    most_s: float = math.inf,
) -> Child:
    """Run a command to its end, or kill it with SIGKILL after `most_s` or when `kill_when` says."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started_s = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=err,
        )
        peak_bytes, ended = 0, 0
        while not ended:
            time.sleep(_LOOK_S)
            peak_bytes = max(peak_bytes, anonymous_bytes(process.pid))
            if kill_when() or time.monotonic() - started_s > most_s:
                os.kill(process.pid, signal.SIGKILL)  # not process.kill(): it may take the status
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        cost = Cost(
            seconds=time.monotonic() - started_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_bytes=peak_bytes,
        )
        out.seek(0)
        err.seek(0)
        return Child(
            cost=cost,
            output=out.read().decode(),
            error=_error(process.returncode, err.read().decode(errors="replace"), cost),
        )


def _error(code: int, written: str, cost: Cost) -> str | None:
    if not code:
        return None
    if code == -signal.SIGKILL:  # by this program, or by the kernel for memory
        return f"killed after {cost.seconds:.0f} s"
    return f"exit code {code}: {' '.join(written.split())[-_CHARACTERS:]}"


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous memory of a process; 0 if it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(next(found, 0))

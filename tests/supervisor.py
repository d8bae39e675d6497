"""Run a command, and leave no process of it behind.

    python -m tests.supervisor .venv/bin/pytest -n 4

The supervisor is the subreaper of the command (Linux): a process whose parent has died becomes the
supervisor's child. So the supervisor finds every process that the command started, in any
session, and kills the remaining ones when the command has ended. The command has a session of its
own: Ctrl-C and SIGTERM reach only the supervisor, which passes them on once, as SIGINT.
If the supervisor itself is killed, the kernel interrupts the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_INTERRUPTED_S = 20.0  # for the report of the interrupted command
_ENDED_S = 5.0  # for processes that end by themselves after the command
_POLL_S = 0.05


def supervise(command: Sequence[str]) -> int:
    """Run a command, kill the processes that it leaves, and return its exit code or 130."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(_interrupted_with_us(command), start_new_session=True)
    while process.poll() is None and not signals:
        _reap_orphans(process.pid)
        time.sleep(_POLL_S)
    if signals:
        _interrupt(process, signals)
    else:
        _wait_for_the_last(signals)
    killed = _kill_all()
    if killed:
        print(f"killed, as the command left them running: {', '.join(killed)}", file=sys.stderr)
    return 128 + signal.SIGINT if signals else process.returncode


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _interrupted_with_us(command: Sequence[str]) -> list[str]:
    """Return a command that gets SIGINT when this process dies."""
    launcher = (
        "import ctypes, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "if sys.platform == 'linux':\n"
        f"    ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGINT, 0, 0, 0)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    return [sys.executable, "-I", "-S", "-c", launcher, *command]


def _interrupt(process: subprocess.Popen[bytes], signals: list[int]) -> None:
    """Interrupt the command, and wait for its report; a second signal ends the wait."""
    process.send_signal(signal.SIGINT)
    deadline_s = time.monotonic() + _INTERRUPTED_S
    while process.poll() is None and len(signals) < 2 and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def _wait_for_the_last(signals: list[int]) -> None:
    deadline_s = time.monotonic() + _ENDED_S
    while _children() and not signals and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def _kill_all() -> list[str]:
    """Kill children until none is left, their children included. Return the names."""
    killed: list[str] = []
    while children := _children():
        for pid in children:
            killed.append(f"{pid} {_name(pid)}")
            os.kill(pid, signal.SIGKILL)  # it is ours and not reaped: no other has its number
            os.waitpid(pid, 0)
    return killed


def _children() -> list[int]:
    """Return the children that run, and reap those that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    return _pids()


def _reap_orphans(command: int) -> None:
    """Reap the ended processes whose parents died, as init does: tests look for their end."""
    for pid in _pids():
        if pid != command:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _pids() -> list[int]:
    """Return the children, those that have ended and are not reaped included."""
    found: list[int] = []
    for tasks in Path("/proc/self/task").glob("*/children"):
        found += map(int, tasks.read_text().split())
    return found


def _name(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return os.fsdecode(b" ".join(words[:4]))[:80].strip()
    return "?"


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))

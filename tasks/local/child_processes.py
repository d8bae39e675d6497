"""Child processes: programs that end when the process that started them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO

_KILL_WAIT_S = 10.0

# A separate interpreter runs this before the program: `preexec_fn` is unsafe beside threads. 1 is
# PR_SET_PDEATHSIG, which survives exec. The parent may have died before prctl was called.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this has ended")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_child_process(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    errors: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session; on Linux, the kernel kills it when this thread ends.

    `errors` receives its standard error; None: `output` does. Ctrl-C on the terminal does not
    reach it. Start it from the main thread: the signal comes when the starting *thread* ends.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        env=environment,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> int:
    """End a program: SIGTERM, then SIGKILL to its whole session; return its exit code."""
    return end_all([process], grace_s=grace_s)[0]


def ask_to_end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Send SIGTERM to the programs that still run."""
    for process in processes:
        if process.poll() is None:
            process.terminate()


def end_all(processes: Sequence[subprocess.Popen[bytes]], *, grace_s: float) -> list[int]:
    """End programs: SIGTERM, and SIGKILL after `grace_s` in all; return their exit codes.

    An interrupt (Ctrl-C) ends the grace period at once.
    """
    ask_to_end(processes)
    deadline_s = time.monotonic() + grace_s
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline_s - time.monotonic()))
    finally:
        for process in processes:  # kill all before waiting for any
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        codes = [process.wait(_KILL_WAIT_S) for process in processes]
    return codes

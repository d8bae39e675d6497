"""Processes that end with their owner."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipfleet.tasks.local.child_processes import end, end_all, start_child_process
from tests.integration.support import PATIENCE_S

OWNER = """
import sys, time
from clipfleet.tasks.local.child_processes import start_child_process
with open(sys.argv[1], "wb") as log:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    child = start_child_process(command, output=log)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_program_runs_in_a_session_of_its_own_and_ends_when_told(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
        process = start_child_process(command, output=log)
    assert os.getsid(process.pid) == process.pid
    assert end(process, grace_s=5) == -signal.SIGTERM


def start_deaf(log_path: Path) -> subprocess.Popen[bytes]:
    """Start a program that ignores SIGTERM, and wait until it does."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
    deaf += "; time.sleep(60)"
    with open(log_path, "w+b") as log:
        process = start_child_process([sys.executable, "-S", "-c", deaf], output=log)
        while not log_path.read_bytes():
            assert process.poll() is None
    return process


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    assert end(start_deaf(tmp_path / "log"), grace_s=0.1) == -signal.SIGKILL


def test_programs_end_together_within_one_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [start_deaf(tmp_path / "first"), start_deaf(tmp_path / "second")]
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
        started.append(start_child_process(command, output=log))
    waits: list[float | None] = []
    wait = started[1].wait

    def noted(timeout: float | None = None) -> int:
        waits.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(started[1], "wait", noted)
    codes = end_all(started, grace_s=1.0)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGTERM]
    assert waits[0] == 0.0  # the first took all of the grace


def test_an_interrupted_end_takes_the_grace_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = [start_deaf(tmp_path / "first"), start_deaf(tmp_path / "second")]
    wait = started[0].wait

    def interrupted(timeout: float | None = None) -> int:
        monkeypatch.setattr(started[0], "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(started[0], "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        end_all(started, grace_s=60.0)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a death")
def test_a_killed_owner_takes_its_program_along(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    descriptor = os.pidfd_open(pid)
    owner.kill()
    owner.wait(PATIENCE_S)
    owner.stdout.close()
    assert select.select([descriptor], [], [], PATIENCE_S)[0], "the program outlived its owner"
    os.close(descriptor)

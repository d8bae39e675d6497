"""An interrupted test run leaves no process, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.support import PATIENCE_S, processes_of, wait_until

ROOT = Path(__file__).parents[2]
SUITE = """
import os, subprocess, sys
from pathlib import Path

DEAF = '''
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.rename(sys.argv[1], sys.argv[2])
time.sleep(3600)
'''

def test_that_starts_a_process_in_a_session_of_its_own_and_waits_for_it():
    Path({folder!r}, "made").write_text(str(os.getpid()))
    command = [sys.executable, "-c", DEAF, {folder!r} + "/made", {folder!r} + "/started"]
    subprocess.Popen(command, start_new_session=True).wait()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised run of a suite, whose test has started a process that only SIGKILL ends."""
    (tmp_path / "test_it.py").write_text(SUITE.format(folder=str(tmp_path)))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider"]
    pytest_command += ["--max-worker-restart=0", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.supervisor", *pytest_command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "started").exists, what="the process of the test")
        yield process
    finally:
        process.kill()
        process.wait()
        for pid in processes_of(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
def test_signals_end_every_process(
    run: subprocess.Popen[bytes], tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    assert processes_of(tmp_path)
    for number in numbers:  # the second ends the wait for the summary
        run.send_signal(number)
    assert run.wait(PATIENCE_S) == 130
    assert processes_of(tmp_path) == []


def test_a_killed_worker_of_the_run_ends_with_what_it_started(
    run: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    worker = int((tmp_path / "started").read_text())
    os.kill(worker, signal.SIGKILL)
    assert run.wait(PATIENCE_S) == 1  # the test counts as failed
    assert processes_of(tmp_path) == []


def test_the_exit_code_is_the_commands() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.supervisor",
        sys.executable,
        "-c",
        "raise SystemExit(5)",
    ]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 5

"""A child's fatal error reaches its parent, and nothing keeps the child alive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipfleet.errors import EngineError, GpuLostError
from clipfleet.settings import ENGINE_REPORT_VARIABLE
from clipfleet.tasks.worker.fatal_error import FatalErrorReport

# A worker: it starts a child that ends it, and tells the child's exit code and its signals.
WORKER = """
import os, signal, subprocess, sys
from clipfleet.errors import ClipfleetError
from clipfleet.tasks.worker.fatal_error import FatalErrorReport
report, told = FatalErrorReport(), []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
{change}
child = "import clipfleet.tasks.worker.fatal_error as w, clipfleet.errors as e; w._WAIT_S = 0.0; "
child += "w.gpu_lost(e.GpuLostError('it fell off the bus'))"
print(subprocess.run([sys.executable, "-c", child], timeout=120).returncode, len(told))
try:
    report.check()
except ClipfleetError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FatalErrorReport, Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (ENGINE_REPORT_VARIABLE, f"{ENGINE_REPORT_VARIABLE}_PID"):
        monkeypatch.setenv(name, "")  # restored at the end
    made = FatalErrorReport()
    return made, Path(os.environ[ENGINE_REPORT_VARIABLE])


def worker(change: str = "") -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", WORKER.format(change=change)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_words_of_a_child_reach_its_worker_which_is_signalled() -> None:
    assert worker() == [
        "1 1",
        "GpuLostError the worker lost its GPU: GpuLostError: it fell off the bus",
    ]


@pytest.mark.parametrize("place", ["/proc/none/report", ""])
def test_a_report_that_cannot_be_written_keeps_no_child_alive(place: str) -> None:
    change = f"os.environ['{ENGINE_REPORT_VARIABLE}'] = {place!r}"
    assert worker(change) == ["1 1"]


def test_a_parent_that_is_not_the_worker_is_not_signalled() -> None:
    change = f"os.environ['{ENGINE_REPORT_VARIABLE}_PID'] = '1'"
    assert worker(change)[0] == "1 0"


def test_without_a_report_nothing_is_raised(
    report: tuple[FatalErrorReport, Path],
) -> None:
    report[0].check()


@pytest.mark.parametrize("words", ["", "[]", '{"gpu_lost": tru', "{}", '{"gpu_lost": true}'])
def test_a_report_that_cannot_be_read_still_ends_the_worker_with_an_error(
    report: tuple[FatalErrorReport, Path], words: str
) -> None:
    made, path = report
    path.write_text(words)
    with pytest.raises(EngineError, match="the log above has the reason") as raised:
        made.check()
    assert not isinstance(raised.value, GpuLostError)
    assert not path.exists()

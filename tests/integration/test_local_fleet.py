"""A local fleet whose workers end: started again, left out, or the reason of the failure."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from clipfleet.errors import EngineError
from clipfleet.settings import Settings
from clipfleet.tasks.local.fleet import MAX_STARTS, LocalFleet

LOST = '{"event": "GPU lost, worker stops", "reason": "the GPU has fallen off the bus"}\n'


class Machine:
    """What the fleet starts: programs that end at once with their GPU's exit code, None: never."""

    def __init__(self, **codes: int | None) -> None:
        self.codes = codes
        self.started: list[str] = []

    def start(self, _number: int, log_path: Path, gpu: str) -> subprocess.Popen[bytes]:
        self.started.append(gpu)
        code = self.codes[gpu]
        with open(log_path, "a", encoding="utf-8") as log:
            log.write(LOST if code else "")
        script = ["sleep", "60"] if code is None else ["sh", "-c", f"exit {code}"]
        process = subprocess.Popen(script, start_new_session=True)
        if code is not None:
            process.wait()
        return process


def fleet(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> LocalFleet:
    monkeypatch.setattr(LocalFleet, "_start", machine.start)
    return LocalFleet(Settings(), list(machine.codes))


def test_a_worker_that_ends_again_and_again_is_left_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(a=1, b=None)
    with fleet(monkeypatch, machine) as running:
        for _ in range(MAX_STARTS + 2):
            running.check()
        assert machine.started == ["a", "b", *["a"] * (MAX_STARTS - 1)]
        [told] = caplog.messages
        assert told.startswith("a worker on GPU a ended 3 times, with exit code 1: the GPU has fal")
        assert told.endswith("; 1 others go on")
        assert running.last_reason() is None


def test_when_no_worker_is_left_the_last_words_are_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(a=1, b=3)
    with fleet(monkeypatch, machine) as running:
        for _ in range(MAX_STARTS - 1):
            running.check()
        with pytest.raises(EngineError, match="on GPU b ended 3 times, with exit code 3: the GPU"):
            running.check()


def test_a_worker_that_is_refused_ends_the_whole_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Any] = []
    with fleet(monkeypatch, Machine(a=None, b=2)) as running:
        stopped += [worker.process for worker in running._workers]
        with pytest.raises(EngineError, match="on GPU b ended once, with exit code 2"):
            running.check()
    assert all(process.poll() is not None for process in stopped)

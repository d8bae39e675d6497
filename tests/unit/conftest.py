"""Unit tests start no process and do not sleep; other folders have the tests that do."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_STARTS = (
    (subprocess.Popen, "__init__", "subprocess.Popen"),
    (multiprocessing.process.BaseProcess, "start", "multiprocessing.Process.start"),
    (os, "fork", "os.fork"),
    (os, "forkpty", "os.forkpty"),
    (os, "posix_spawn", "os.posix_spawn"),
    (os, "posix_spawnp", "os.posix_spawnp"),
    (os, "system", "os.system"),
    (time, "sleep", "time.sleep"),
)


@pytest.fixture(autouse=True)
def refused_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Refuse to start processes and to sleep, and fail a test that tried, even if it went on.

    A test that expects such a call removes it from this list.
    """
    refused: list[str] = []
    for owner, name, call in _STARTS:
        monkeypatch.setattr(owner, name, _refusal(call, refused))
    yield refused
    assert not refused, _message(refused[0])


def _refusal(call: str, refused: list[str]) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        refused.append(call)
        raise AssertionError(_message(call))

    return refuse


def _message(call: str) -> str:
    return (
        f"a unit test called {call}: unit tests start no process and do not sleep; "
        "move the test to tests/integration, or give the code under test a stand-in"
    )

"""What the pool does when a child dies; `tests/faults` has it with real ones."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool

from clipfleet.tasks.worker.pool import TaskPool

Call = tuple[float, Callable[..., None], tuple[Any, ...]]


class Hub:
    """An event loop that keeps what is to be called later."""

    def __init__(self) -> None:
        self.later: list[Call] = []

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.later.append((delay_s, call, args))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool's processes without Celery's own part of it."""
    looks: list[None] = []
    for name in ("_event_process_exit", "maintain_pool"):
        monkeypatch.setattr(AsynPool, name, lambda *_: looks.append(None))
    processes: Any = TaskPool.Pool.__new__(TaskPool.Pool)
    processes.looks = looks
    return processes


def test_a_child_that_has_closed_its_files_and_not_ended_is_looked_at_again(
    processes: Any,
) -> None:
    """Else a timer sees its end, up to 5 s later."""
    hub, child = Hub(), SimpleNamespace(exitcode=None)
    processes._event_process_exit(hub, child)
    for _ in range(2):
        (delay_s, call, args) = hub.later.pop()
        assert delay_s < 0.5
        before = len(processes.looks)
        call(*args)
        assert len(processes.looks) == before + 1
    child.exitcode = -signal.SIGKILL
    (_, call, args) = hub.later.pop()
    call(*args)
    assert hub.later == []

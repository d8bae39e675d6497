"""What the pool does when a child dies; `tests/faults` has it with real ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool

from tasks import pool as module
from tasks.pool import TaskPool
from workers.deaths import KEY_LENGTH, Deaths, Died

ITEM = "i" * KEY_LENGTH
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


def test_a_death_is_held_against_an_item_before_its_work_goes_back(
    processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Deaths()
    seen: list[dict[str, Died]] = []
    monkeypatch.setattr(module, "deaths", lambda: record)
    monkeypatch.setattr(AsynPool, "on_job_process_lost", lambda *_: seen.append(record.counted()))
    with record.alone(ITEM):
        processes.on_job_process_lost("job", os.getpid(), -signal.SIGSEGV)
    assert seen == [{ITEM: Died(times=1, of="SIGSEGV")}]


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

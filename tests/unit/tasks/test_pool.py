"""What the pool does when a child dies; `tests/faults` has it with real ones."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.worker import state

from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.worker import pool
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


class Children:
    """The children of a pool without Celery's part of it; `reasons` to stop, and the starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reasons: list[str] = []
        self.starts = 0
        self._pid = 100
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(pool, "current_app", make_app(load_settings(model="m.card.json")))
        monkeypatch.setattr(pool, "stop_worker", self._stop)
        monkeypatch.setattr(AsynPool, "_repopulate_pool", self._start)
        for name in ("__init__", "on_process_alive", "_process_cleanup_queues"):
            monkeypatch.setattr(AsynPool, name, lambda *_: None)
        self._processes: Any = TaskPool.Pool()

    def load(self) -> int:
        """Have a new child load its engine, and return its pid."""
        self._pid += 1
        self._processes.on_process_alive(self._pid)
        return self._pid

    def die(self, pid: int = 0, *, by: int = signal.SIGKILL) -> None:
        """End a child, without `pid` a new one, and start another as the pool does."""
        self._processes._process_cleanup_queues(SimpleNamespace(pid=pid, exitcode=-by))
        self._processes._repopulate_pool([-by])

    def _start(self, *_: object) -> None:
        self.starts += 1

    def _stop(self, reason: str, **_: object) -> None:
        self._monkeypatch.setattr(state, "should_stop", 0)  # as Celery does on SIGTERM
        self.reasons.append(reason)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    monkeypatch.setattr(state, "should_stop", None)
    return Children(monkeypatch)


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


def test_three_children_that_die_while_they_load_the_engine_end_the_worker(
    children: Children,
) -> None:
    """Else it would start children for ever."""
    for by in (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGSEGV):
        children.die(by=by)
    (reason,) = children.reasons
    assert reason.startswith("the engine of m.card.json did not load: its process died 3 times")
    assert "the last time: signal 11 (SIGSEGV); run `clipfleet doctor`" in reason
    assert children.starts == 2  # after the first and the second


def test_an_engine_that_was_loaded_ends_the_row_of_deaths(children: Children) -> None:
    for _ in range(2):
        children.die()
        children.die()
        children.load()
    assert children.reasons == []


def test_a_child_that_dies_after_it_has_loaded_the_engine_is_only_replaced(
    children: Children,
) -> None:
    for pid in [children.load() for _ in range(4)]:
        children.die(pid)
    assert (children.reasons, children.starts) == ([], 4)


def test_children_that_end_with_their_worker_are_neither_counted_nor_replaced(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_stop", 0)
    for _ in range(3):
        children.die(by=signal.SIGTERM)
    assert (children.reasons, children.starts) == ([], 0)

"""How a worker is told to stop, once or more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.apps.worker import install_worker_term_handler  # type: ignore[attr-defined]
from celery.worker import state

from clipfleet.tasks.worker import main as worker


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Celery's handler in this process, and what receivers are told by it."""
    hostnames: list[str] = []

    def receive(sender: str, **_: Any) -> None:
        hostnames.append(sender)

    monkeypatch.setattr(worker, "_stopping", True)  # no grace period begins here
    monkeypatch.setattr(state, "should_stop", None)
    handler = signal.getsignal(signal.SIGTERM)
    signals.worker_shutting_down.connect(receive)
    try:
        install_worker_term_handler(SimpleNamespace(hostname="w1"))
        yield hostnames
    finally:
        signals.worker_shutting_down.disconnect(receive)
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.timeout(120)  # where it fails, it hangs
def test_a_second_sigterm_may_come_while_the_first_is_told_of(told: list[str]) -> None:
    with signals.worker_shutting_down.lock:  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["w1"]
    assert state.should_stop == 0

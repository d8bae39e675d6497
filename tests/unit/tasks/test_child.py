"""What a worker's child does at its start."""

from __future__ import annotations

import pytest

from clipfleet.settings import load_settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.worker import main as worker
from clipfleet.tasks.worker import watchdog as deadline


def test_a_child_that_cannot_open_what_its_worker_shares_ends_the_worker_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each task would fail for it, and be put off, for ever."""
    reasons: list[str] = []
    monkeypatch.setattr(worker, "current_app", make_app(load_settings()))
    monkeypatch.setattr(worker, "set_up_logs", lambda _: None)
    monkeypatch.setattr(worker, "end_worker", lambda error, **_: reasons.append(str(error)))
    monkeypatch.setattr(worker, "open_embedder", pytest.fail)
    monkeypatch.setenv(deadline._VARIABLE, "/proc/0/fd/7")
    deadline.working.cache_clear()
    worker._on_child()
    assert [reason[:25] for reason in reasons] == ["cannot open /proc/0/fd/7,"]

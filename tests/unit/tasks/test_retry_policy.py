"""What becomes of a message whose work failed."""

from __future__ import annotations

from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery.exceptions import Reject, Retry

from clipfleet.errors import BrokerError, EngineError, StorageError
from clipfleet.tasks.retry_policy import (
    MAX_DELAY_S,
    BatchFailed,
    BatchPostponed,
    count_lost,
    lost_reason,
    may_retry,
    reason_of,
    requeue_batch,
    retry_delay_s,
    retry_later,
    times_lost,
)


class StandIn:
    """A bound Celery task whose `retry` does what the test says."""

    def __init__(self, retries: int, outcome: Exception) -> None:
        self.request = type("Request", (), {"retries": retries})()
        self.outcome = outcome
        self.given: dict[str, Any] = {}

    def retry(self, **given: Any) -> None:
        self.given = given
        raise self.outcome


def test_delays_double_and_level_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.5 <= retry_delay_s(1) <= 1.0
    monkeypatch.setattr("clipfleet.workers.backoff.random.uniform", max)
    delays = [retry_delay_s(attempt) for attempt in (1, 2, 3, 6, 7, 1000)]
    assert delays == [1.0, 2.0, 4.0, 32.0, 60.0, MAX_DELAY_S]


def test_transient_errors_are_retried_for_ever_and_others_a_few_times() -> None:
    for error in (StorageError("disk"), BrokerError("redis"), OSError(5, "io")):
        assert may_retry(error, 10_000, attempts=5)
    assert may_retry(EngineError("x"), 4, attempts=5)
    assert not may_retry(EngineError("x"), 5, attempts=5)


def test_a_retry_waits_longer_each_time() -> None:
    task = StandIn(retries=3, outcome=Retry())
    with pytest.raises(Retry):
        retry_later(task, StorageError("disk full"), named="shard 1")
    assert task.given["max_retries"] == 4
    assert 4.0 <= task.given["countdown"] <= 8.0


def test_a_retry_that_redis_does_not_take_puts_the_message_back() -> None:
    """Celery itself would drop it here: its Reject does not requeue."""
    task = StandIn(retries=0, outcome=Reject("no connection", requeue=False))
    with pytest.raises(Reject) as caught:
        retry_later(task, StorageError("disk full"), named="shard 1")
    assert vars(caught.value)["requeue"] is True


def test_a_batch_is_given_back_with_word_of_whose_fault_it_is() -> None:
    with pytest.raises(BatchPostponed) as transient:
        requeue_batch(StorageError("disk full"))
    with pytest.raises(BatchFailed) as other:
        requeue_batch(ValueError("odd\nitem"))
    assert vars(transient.value)["requeue"] is vars(other.value)["requeue"] is True
    assert "odd item" in str(other.value)


def test_a_reason_is_one_line() -> None:
    assert reason_of(ValueError("a\n  b")) == "ValueError: a b"


@pytest.mark.parametrize(("found", "expected"), [(None, 1), (2, 3), ("x", 1), ([], 1)])
def test_losses_are_counted_in_the_message(found: object, expected: int) -> None:
    info: dict[str, Any] = {"exchange": ""} | ({} if found is None else {"lost": found})
    count_lost({"properties": {"delivery_info": info}})
    assert times_lost(info) == expected


@pytest.mark.parametrize(
    ("error", "how"),
    [
        ("Worker exited prematurely: signal 11 (SIGSEGV) Job: 3.", "signal 11 (SIGSEGV)"),
        ("Worker exited prematurely: exitcode 1 Job: 12.", "exitcode 1"),
        ("unforeseen", "unforeseen"),
    ],
)
def test_a_refusal_has_how_the_process_ended(error: str, how: str) -> None:
    reason = lost_reason(5, WorkerLostError(error))
    assert reason == f"it ended the engine's process 5 times; the last time: {how}"

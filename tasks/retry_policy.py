"""The retry policy: which failed messages are tried again, when, and how often.

After a transient error (Redis, the disk), a message is tried again without limit. After any other
unexpected error, or the death of its process, a shard is tried `shard_attempts` times and then
refused with the reason; the plan still has it, so nothing is lost. A wrong message is refused at
once.

No plan has single items. If their dataset is damaged, they wait until it is repaired. After
`shard_attempts` errors or deaths of the engine, they become error rows.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from celery.exceptions import Reject

from clipfleet.errors import TransientError, UsageError
from clipfleet.workers.backoff import backoff_s

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0

TRANSIENT = (TransientError, OSError)

_LOST = "lost"  # the key of the count in a message's delivery_info

log = logging.getLogger(__name__)


def retry_delay_s(attempt: int) -> float:
    """Return the seconds to wait after the failed attempt 1, 2, … of a shard or a batch."""
    return backoff_s(attempt, first_s=FIRST_DELAY_S, max_s=MAX_DELAY_S)


def may_retry(error: BaseException, attempt: int, attempts: int) -> bool:
    """Return whether to try again after an error at this attempt (1, 2, …)."""
    return isinstance(error, TRANSIENT) or attempt < attempts


def times_lost(delivery_info: Mapping[str, Any] | None) -> int:
    """Return how often the process that ran a message, or its worker, was lost."""
    found = (delivery_info or {}).get(_LOST, 0)
    return found if isinstance(found, int) else 0


def count_lost(message: Mapping[str, Any]) -> None:
    """Add one to the count of lost processes in a kombu message that is put back."""
    info = message["properties"]["delivery_info"]
    info[_LOST] = times_lost(info) + 1


def lost_reason(times: int, error: BaseException | None = None) -> str:
    """Return the reason for giving up after losing the process; `error` is Celery's last one."""
    if error is None:
        return f"its workers died, or lost Redis, {times} times while they had it"
    how = str(error).removeprefix("Worker exited prematurely: ")
    how = re.sub(r" Job: \d+\.?$", "", how)
    return f"it ended the engine's process {times} times; the last time: {how}"


class BatchPostponed(Reject):
    """A batch that failed because of the disk, Redis or its dataset, not of its items."""


class BatchFailed(Reject):
    """A batch that failed for another reason, perhaps because of one of its items."""


def is_postponed(error: BaseException) -> bool:
    """Return whether a batch failed for a reason outside its items, so that it waits."""
    return isinstance(error, (*TRANSIENT, UsageError))


def requeue_batch(error: Exception) -> NoReturn:
    """Make the parent process, which holds a batch's messages, run the batch again.

    Raises:
        BatchPostponed, BatchFailed: Always.
    """
    kind = BatchPostponed if is_postponed(error) else BatchFailed
    raise kind(reason_of(error), requeue=True) from error


def retry_later(task: Any, error: Exception, *, named: str) -> NoReturn:
    """Queue a task's message again with a delay; the present message is then acknowledged.

    `named` is the message's name in the log.

    Raises:
        celery.exceptions.Retry: Always; or Reject, which puts the message back without a delay,
            if Redis does not accept the new one.
    """
    attempt = task.request.retries + 1
    delay_s = retry_delay_s(attempt)
    log.warning(
        "shard failed, will be tried again",
        extra={
            "failed": named,
            "attempt": attempt,
            "delay_s": round(delay_s, 1),
            "reason": reason_of(error),
        },
    )
    try:
        task.retry(countdown=delay_s, max_retries=attempt, exc=error)
    except Reject as rejected:
        raise Reject(reason_of(rejected), requeue=True) from error
    raise AssertionError("Task.retry returned")


def reason_of(error: BaseException) -> str:
    """Return an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())

"""What becomes of a message whose work failed: again after a while, or never.

A transient error (Redis, the disk) is tried again for ever: the message is worth nothing
less tomorrow. After any other unexpected error, or the end of its process, a shard is tried
`shard_attempts` times and then refused with its reason: the plan still has it, so nothing is lost.
Wrong messages are refused at once.

No plan has the items that came singly. Whatever is wrong with their dataset, they wait until
somebody has mended it; those on which the engine fails, or ends, as often are error rows.
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

_LOST = "lost"  # the count in a message's delivery_info

log = logging.getLogger(__name__)


def retry_delay_s(attempt: int) -> float:
    """Return the seconds to wait after failed attempt 1, 2, … of a shard or a batch."""
    return backoff_s(attempt, first_s=FIRST_DELAY_S, max_s=MAX_DELAY_S)


def may_retry(error: BaseException, attempt: int, attempts: int) -> bool:
    """Return whether work that failed at this attempt (1, 2, …) is worth another."""
    return isinstance(error, TRANSIENT) or attempt < attempts


def is_redelivered(delivery_info: Mapping[str, Any] | None) -> bool:
    """Return whether a message came back from a worker that died, or stopped, while it had it.

    The transport notes that in what it puts back. One of its images may have ended the process:
    so they are decoded in another one.
    """
    return bool((delivery_info or {}).get("redelivered"))


def times_lost(delivery_info: Mapping[str, Any] | None) -> int:
    """Return how often the process that ran a message, or its worker, was lost."""
    found = (delivery_info or {}).get(_LOST, 0)
    return found if isinstance(found, int) else 0


def count_lost(message: Mapping[str, Any]) -> None:
    """Count once more that a process was lost, in a message of kombu's that is put back."""
    info = message["properties"]["delivery_info"]
    info[_LOST] = times_lost(info) + 1


def lost_reason(times: int, error: BaseException | None = None) -> str:
    """Return why work is given up whose process was lost so often; `error` is Celery's of it."""
    if error is None:
        return f"its workers died, or lost Redis, {times} times while they had it"
    how = str(error).removeprefix("Worker exited prematurely: ")
    how = re.sub(r" Job: \d+\.?$", "", how)
    return f"it ended the engine's process {times} times; the last time: {how}"


class NotNow(Reject):
    """A batch of items that failed by no fault of theirs: the disk, Redis, or their dataset."""


class NotThis(Reject):
    """A batch of items that failed for another reason, which may be one of the items."""


def give_back(error: Exception) -> NoReturn:
    """Tell the parent process, which holds a batch's messages, to run it again.

    Raises:
        NotNow, NotThis: Always.
    """
    kind = NotNow if isinstance(error, (*TRANSIENT, UsageError)) else NotThis
    raise kind(reason_of(error), requeue=True) from error


def retry_later(task: Any, error: Exception, *, named: str) -> NoReturn:
    """Put a task's message back for after a while; the message at hand is then acknowledged.

    `named` is what it is called in the log.

    Raises:
        celery.exceptions.Retry: Always, for Celery; or Reject, which puts the message back
            at once, if Redis does not take the new one.
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

"""Stall: why an unfinished dataset cannot move, told from several looks at its files and Redis."""

from __future__ import annotations

from dataclasses import dataclass

_NOT_QUEUED_S = 10.0  # a message that moves in Redis is out of sight for less
_LOOKS = 2  # of the reconcilers, before lost shards count as not queued
_NO_REDIS_S = 60.0
_NO_WORKER_S = 60.0  # an engine loads in less, unless it is built first


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen at one time; messages are those of the dataset's queue.

    `served` counts the messages that living workers hold. `waiting`, `held` and `served` are None
    if Redis did not answer.
    """

    done: int  # items
    missing: int  # shards
    refused: int  # shards
    waiting: int | None
    held: int | None
    served: int | None
    broker_error: str | None
    run: object = None  # the contents of `running.json`, which a local run renews


class Stall:
    """Why nothing moves; times are monotonic seconds."""

    def __init__(
        self, *, reconcile_interval_s: float, remedy: str, start: str, now_s: float
    ) -> None:
        self._reconcile_interval_s = reconcile_interval_s
        self._remedy = remedy  # the command that queues missing shards
        self._start = start  # the command that starts a worker
        self._look: Look | None = None
        self._done_s = self._queued_s = self._answered_s = self._served_s = now_s

    def add(self, look: Look, now_s: float) -> None:
        """Take another look into account."""
        before = self._look
        if before is None or look.done != before.done:
            self._done_s = now_s
        if look.waiting or look.held:
            self._queued_s = now_s
        if look.broker_error is None:
            self._answered_s = now_s
        if look.served or not (look.waiting or look.held):
            self._served_s = now_s
        if look.run is not None and (before is None or look.run != before.run):
            # A local run has a queue, and often a Redis, of its own.
            self._queued_s = self._answered_s = self._served_s = now_s
        self._look = look

    def reason(self, now_s: float) -> str:
        """Return why the dataset cannot move until a person acts; "" if it can, or is finished."""
        look = self._look
        if look is None or not look.missing:
            return ""
        still_s = now_s - self._done_s
        if look.broker_error is not None:
            long = min(still_s, now_s - self._answered_s) > _NO_REDIS_S
            return look.broker_error if long else ""
        if look.refused >= look.missing and still_s > _NOT_QUEUED_S:
            return (
                f"the workers refused every missing shard ({look.missing:,}): mend the cause, then "
                f"{self._remedy}"
            )
        if not look.waiting and not look.held:
            limit_s = _NOT_QUEUED_S
            if not look.refused:  # the reconcilers queue lost shards again, but not refused ones
                limit_s += _LOOKS * self._reconcile_interval_s
            if now_s - self._queued_s > limit_s:
                return f"{look.missing:,} shards are missing and none is queued: {self._remedy}"
            return ""
        if min(still_s, now_s - self._served_s) > _NO_WORKER_S:
            return (
                f"no worker has held a message for {_NO_WORKER_S:.0f} s, and "
                f"{(look.waiting or 0) + (look.held or 0):,} wait: {self._start}"
            )
        return ""

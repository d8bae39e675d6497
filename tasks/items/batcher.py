"""The batcher: collects messages of single items and runs them as one batch.

This module does not use Celery. A message is acknowledged when its items are written. A batch that
failed runs again after a delay. A message that failed too often is given up: its items are written
as errors. A batch whose dataset cannot be written waits without limit; if another one waits
already, its messages are deferred: they leave this worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from clipfleet.error_codes import ENGINE_CRASHED, ENGINE_FAILED
from clipfleet.tasks.retry_policy import lost_reason, retry_delay_s

MAX_HELD_WINDOWS = 2  # one that is embedded, one that fills; further messages stay in Redis
_MAX_CREDIT = 60_000  # kombu turns prefetch limits off above 65,535

GivenUp = tuple[str, str]  # the class of the errors, and their message


@dataclass(kw_only=True, slots=True, eq=False)
class Delivery:
    """A message that this worker holds: its unparsed items, and how to acknowledge it.

    `raw` returns the message in the JSON of its queue. `lost`: how often the process that had its
    items, or its worker, died.
    """

    dataset: str | None  # None: the default, see clipfleet.tasks.items.task
    items: list[Any]
    ack: Callable[[], None]
    raw: Callable[[], str] = str
    lost: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Batch:
    """Deliveries for one dataset that are embedded together.

    `attempt` counts from 1. `failed_alone` counts the errors of a batch of one delivery that one
    of its items may have caused.
    """

    dataset: str | None
    deliveries: list[Delivery] = field(default_factory=list)
    attempt: int = 1
    failed_alone: int = 0
    given_up: GivenUp | None = None

    @property
    def size(self) -> int:
        """The number of items."""
        return sum(len(delivery.items) for delivery in self.deliveries)


class Batcher:
    """Holds deliveries until a dataset has `window_items` of them, or `window_s` have passed.

    `run(batch)` starts a batch, which ends in `finish`, `try_again` or `lost`. A delivery that
    failed alone, or was lost, `attempts` times is given up. `after(delay_s, call)` is a timer.
    `extend(n)` raises (or lowers) the prefetch limit by n messages. `defer(deliveries)` puts
    messages aside in Redis and returns whether it did; they are then acknowledged.
    """

    def __init__(
        self,
        *,
        window_items: int,
        window_s: float,
        attempts: int,
        run: Callable[[Batch], None],
        after: Callable[[float, Callable[[], None]], object],
        extend: Callable[[int], None],
        defer: Callable[[Sequence[Delivery]], bool],
    ) -> None:
        self._window_items = window_items
        self._window_s = window_s
        self._attempts = attempts
        self._run = run
        self._after = after
        self._extend = extend
        self._defer = defer
        self._windows: dict[tuple[str | None, GivenUp | None], Batch] = {}
        self._held: set[Delivery] = set()
        self._held_items = 0
        self._waiting_items = 0  # of the held ones, in batches whose dataset cannot be written
        self._credit = 0
        self._closed = False

    def add(self, delivery: Delivery) -> None:
        """Add a delivery to its window; start the window if it is full."""
        given_up = None
        if delivery.lost >= self._attempts:
            given_up = (ENGINE_CRASHED, lost_reason(delivery.lost))
        key = (delivery.dataset, given_up)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Batch(dataset=delivery.dataset, given_up=given_up)
            self._after(self._window_s, partial(self._start, window))
        window.deliveries.append(delivery)
        self._held.add(delivery)
        self._held_items += len(delivery.items)
        self._update_credit()
        if window.size >= self._window_items:
            self._start(window)

    def finish(self, batch: Batch) -> None:
        """Acknowledge a batch's deliveries, whose items are written."""
        for delivery in batch.deliveries:
            self._held.discard(delivery)
            self._held_items -= len(delivery.items)
            delivery.ack()
        self._update_credit()

    def try_again(self, batch: Batch, *, split: bool, reason: str = "") -> None:
        """Run a failed batch again after a delay.

        With `split`, run it in two halves from the second failure on, so that a message that is
        the cause does not hold up its neighbours. Without, its dataset cannot be written: at most
        a window of such messages stays here, or they would hold up all others.
        """
        if not split:
            self._wait(batch)
            return
        alone = len(batch.deliveries) == 1
        batch.failed_alone += alone
        if batch.failed_alone >= self._attempts and batch.given_up is None:
            message = f"it failed {batch.failed_alone} times without its neighbours: {reason}"
            batch.given_up = (ENGINE_FAILED, message)
        halved = not alone and batch.attempt > 1
        self._go_later(batch, _halves(batch) if halved else [batch])

    def lost(self, batch: Batch, error: BaseException) -> None:
        """Run a batch whose process died again after a delay, and do not split it.

        Its deliveries that were lost too often are given up.
        """
        for delivery in batch.deliveries:
            delivery.lost += 1
        last = [one for one in batch.deliveries if one.lost >= self._attempts]
        rest = [one for one in batch.deliveries if one.lost < self._attempts]
        parts = [replace(batch, deliveries=rest)] if rest else []
        if last:
            reason = lost_reason(max(one.lost for one in last), error)
            given_up = batch.given_up or (ENGINE_CRASHED, reason)
            parts.append(replace(batch, deliveries=last, given_up=given_up))
        self._go_later(batch, parts)

    def close(self) -> None:
        """Start no more batches: after a lost connection, Redis delivers all messages again."""
        self._closed = True

    def _start(self, window: Batch) -> None:
        key = (window.dataset, window.given_up)
        if self._windows.get(key) is window:  # not started yet because it was full
            del self._windows[key]
            self._go(window)

    def _go_later(self, failed: Batch, parts: list[Batch]) -> None:
        """Run the parts of a failed batch after a delay that grows with its attempts."""
        attempt = failed.attempt
        for part in parts:
            part.attempt = attempt + 1
            self._after(retry_delay_s(attempt), partial(self._go, part))

    def _wait(self, batch: Batch) -> None:
        """Run a batch again after a delay, or defer it if it is too much beside those that wait."""
        if self._closed:  # Redis delivers its messages again
            return
        waiting = self._waiting_items + batch.size
        too_much = self._waiting_items > 0 and waiting > self._window_items
        # Redis does not keep that a batch was given up.
        if too_much and batch.given_up is None and self._defer(batch.deliveries):
            self.finish(batch)
            return
        self._waiting_items = waiting
        self._update_credit()
        delay_s = retry_delay_s(batch.attempt)
        batch.attempt += 1
        self._after(delay_s, partial(self._go_after_waiting, batch))

    def _go_after_waiting(self, batch: Batch) -> None:
        self._waiting_items -= batch.size
        self._go(batch)

    def _go(self, batch: Batch) -> None:
        if not self._closed:
            self._run(batch)

    def _update_credit(self) -> None:
        """Keep the prefetch limit above the held messages, up to `MAX_HELD_WINDOWS` of items.

        Waiting items do not count: shards and the items of other datasets pass.
        """
        full = self._held_items - self._waiting_items >= MAX_HELD_WINDOWS * self._window_items
        wanted = min(len(self._held), self._credit if full else _MAX_CREDIT)
        if wanted != self._credit:
            self._extend(wanted - self._credit)
            self._credit = wanted


def _halves(batch: Batch) -> list[Batch]:
    """Split a batch of several deliveries into two batches."""
    middle = -(-len(batch.deliveries) // 2)
    halves = (batch.deliveries[:middle], batch.deliveries[middle:])
    return [replace(batch, deliveries=half) for half in halves]

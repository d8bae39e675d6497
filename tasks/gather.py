"""Gathering: messages of single items wait for their neighbours, then go as one batch.

This part knows nothing of Celery. A message is acknowledged when its items are written; one
whose batch failed stays in hand and goes again after a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tasks.retry import MAX_ATTEMPTS, retry_delay_s

WINDOWS_IN_HAND = 2  # one that is embedded, one that fills: more messages stay in Redis
_MAX_CREDIT = 60_000  # kombu turns prefetch limits off above 65,535


@dataclass(kw_only=True, slots=True, eq=False)
class Delivery:
    """A message in hand: its items, not yet looked at, and how to acknowledge it.

    `suspect`: a worker died, or stopped, with it in hand.
    """

    dataset: str | None  # None: the output folder's own, see tasks.embed_items
    items: list[Any]
    ack: Callable[[], None]
    suspect: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class Batch:
    """Deliveries for one dataset that are embedded together.

    `attempt` counts from 1; `failed_alone` how often a batch of one delivery raised an error
    whose reason may be one of its items. After some of these, or once its process died, it is
    `careful` (see `Embedder.embed`).
    """

    dataset: str | None
    deliveries: list[Delivery] = field(default_factory=list)
    attempt: int = 1
    failed_alone: int = 0
    careful: bool = False

    @property
    def size(self) -> int:
        """Items."""
        return sum(len(delivery.items) for delivery in self.deliveries)


class Gatherer:
    """Holds deliveries until `window_items` are there for a dataset, or `window_s` went by.

    `run(batch)` starts a batch, which ends in `finish` or `try_again`. `after(delay_s,
    call)` is a timer. `extend(n)` lets n more (or fewer) messages be taken from Redis than
    if none were in hand.
    """

    def __init__(
        self,
        *,
        window_items: int,
        window_s: float,
        run: Callable[[Batch], None],
        after: Callable[[float, Callable[[], None]], object],
        extend: Callable[[int], None],
    ) -> None:
        self._window_items = window_items
        self._window_s = window_s
        self._run = run
        self._after = after
        self._extend = extend
        self._windows: dict[str | None, Batch] = {}
        self._in_hand: set[Delivery] = set()
        self._items_in_hand = 0
        self._credit = 0
        self._closed = False

    def add(self, delivery: Delivery) -> None:
        """Take a delivery in hand; the window that it fills starts."""
        window = self._windows.get(delivery.dataset)
        if window is None:
            window = self._windows[delivery.dataset] = Batch(dataset=delivery.dataset)
            self._after(self._window_s, partial(self._start, window))
        window.deliveries.append(delivery)
        window.careful |= delivery.suspect
        self._in_hand.add(delivery)
        self._items_in_hand += len(delivery.items)
        self._update_credit()
        if window.size >= self._window_items:
            self._start(window)

    def finish(self, batch: Batch) -> None:
        """Acknowledge a batch's deliveries: their items are written."""
        for delivery in batch.deliveries:
            self._in_hand.discard(delivery)
            self._items_in_hand -= len(delivery.items)
            delivery.ack()
        self._update_credit()

    def try_again(self, batch: Batch, *, split: bool, died: bool = False) -> None:
        """Run a batch that failed once more, after a while.

        With `split`, in two halves from the second failure on: where one message is the
        cause, its neighbours get through. One whose process died, with `died`, is not split:
        it is embedded carefully, which finds the item that did it, if one did.
        """
        delay_s = retry_delay_s(batch.attempt)
        alone = len(batch.deliveries) == 1
        batch.failed_alone += split and alone
        batch.attempt += 1
        batch.careful |= died or batch.failed_alone >= MAX_ATTEMPTS
        for part in _halves(batch) if split and not alone and batch.attempt > 2 else [batch]:
            self._after(delay_s, partial(self._go, part))

    def close(self) -> None:
        """Let go of everything: the connection is gone, and Redis delivers it all again."""
        self._closed = True

    def _start(self, window: Batch) -> None:
        if self._windows.get(window.dataset) is window:  # not started yet, by its size
            del self._windows[window.dataset]
            self._go(window)

    def _go(self, batch: Batch) -> None:
        if not self._closed:
            self._run(batch)

    def _update_credit(self) -> None:
        """Keep the prefetch limit ahead of the messages in hand, up to a number of items."""
        full = self._items_in_hand >= WINDOWS_IN_HAND * self._window_items
        wanted = min(len(self._in_hand), self._credit if full else _MAX_CREDIT)
        if wanted != self._credit:
            self._extend(wanted - self._credit)
            self._credit = wanted


def _halves(batch: Batch) -> list[Batch]:
    """Return the deliveries of a batch of several as two batches."""
    middle = -(-len(batch.deliveries) // 2)
    halves = (batch.deliveries[:middle], batch.deliveries[middle:])
    return [replace(batch, deliveries=half) for half in halves]

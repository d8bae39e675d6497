"""Receiving single items: Celery's consumer passes their messages to the batcher.

This runs in the event loop of the worker's parent process, so nothing here may take long. It uses
Celery's hook for a task's strategy, `Request`, and the prefetch counter that Celery raises for
delayed tasks in the same way.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_reserved
from kombu.utils.json import dumps

from clipfleet.errors import MessageError
from clipfleet.messages import EMBED_ITEMS_TASK, MAX_DATASET_LENGTH, MAX_MESSAGE_ITEMS
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.locations import below
from clipfleet.storage.format.dataset import single_items_name
from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.consumer import Handler, arguments_of, refuse_message
from clipfleet.tasks.broker.deferred import bring_back, defer
from clipfleet.tasks.broker.transport import PARSE_ERRORS
from clipfleet.tasks.items.batcher import Batch, Batcher, Delivery
from clipfleet.tasks.items.schedule import schedule_of
from clipfleet.tasks.retry_policy import (
    BatchFailed,
    BatchPostponed,
    reason_of,
    times_lost,
)
from clipfleet.validation import shortened

_SHOWN_LENGTH = 200  # characters of a wrong argument in its refusal
_BUSY = "others wait for their dataset already"
_RETURNS_S = 5.0  # between two looks for deferred messages that are due

log = logging.getLogger(__name__)


def strategy(task: Any, app: Any, consumer: Any) -> Handler:
    """Return the function that Celery calls with every `clipfleet.embed_items` message.

    Celery calls `strategy` after each connection; Redis then delivers the earlier batcher's
    messages again.
    """
    if task.batcher is not None:
        task.batcher.close()
        task.batcher = None
    if task.returns is not None:
        task.returns.cancel()
    task.returns = consumer.timer.call_repeatedly(_RETURNS_S, _bring_back, (consumer,))
    return partial(_receive, task, consumer, settings_of(app))


def make_batcher(task: Any, consumer: Any, settings: Settings) -> Batcher:
    """Return a batcher that runs its batches on the consumer's pool."""

    def run(batch: Batch) -> None:
        request = BatchRequest(batch, batcher, task, consumer)
        task_reserved(request)
        consumer.on_task_request(request)

    def extend(messages: int) -> None:
        if messages > 0:
            consumer.qos.increment_eventually(messages)
        else:
            consumer.qos.decrement_eventually(-messages)

    def put_aside(deliveries: Sequence[Delivery]) -> bool:
        return _defer(consumer, deliveries)

    batcher = Batcher(
        window_items=settings.window_items,
        window_s=settings.window_s,
        attempts=settings.shard_attempts,
        run=run,
        after=consumer.timer.call_after,
        extend=extend,
        defer=put_aside,
    )
    return batcher


def parse_delivery(message: Any, ack: Callable[[], None]) -> Delivery:
    """Parse a message; its items are parsed in the child process.

    Raises:
        MessageError: It is not `args=[[item, …]], kwargs={"dataset": path}` (optional).
    """
    args, kwargs = arguments_of(message)
    dataset = kwargs.get("dataset")
    if len(args) != 1 or not isinstance(args[0], list) or not args[0]:
        raise MessageError(f"{EMBED_ITEMS_TASK} takes one argument, a list of items")
    if len(args[0]) > MAX_MESSAGE_ITEMS:
        raise MessageError(
            f"a message of {len(args[0])} items: {EMBED_ITEMS_TASK} takes at most "
            f"{MAX_MESSAGE_ITEMS}, send more messages"
        )
    if kwargs.keys() - {"dataset"} or not isinstance(dataset, str | None):
        found = shortened(kwargs, _SHOWN_LENGTH)
        raise MessageError(f"{EMBED_ITEMS_TASK} takes one keyword, dataset=PATH, not {found}")
    info = message.delivery_info
    return Delivery(
        dataset=dataset,
        items=args[0],
        ack=ack,
        lost=times_lost(info),
    )


def _receive(task: Any, consumer: Any, settings: Settings, message: Any, *_: Any) -> None:
    ack = partial(message.ack_log_error, log, consumer.connection_errors)
    now = datetime.now(timezone.utc)
    try:
        delivery = parse_delivery(message, partial(consumer.call_soon_ack, ack))
        schedule = schedule_of(message)
        schedule.check_expired(now)
    except MessageError as error:
        refuse_message(settings, message, error, dataset=_named_dataset(settings, message))
        ack()
        return
    delivery.raw = partial(dumps, message._raw)  # noqa: SLF001 - as kombu records it
    if not schedule.is_early(now):
        if task.batcher is None:  # the first message on this connection
            task.batcher = make_batcher(task, consumer, settings)
        task.batcher.add(delivery)
    elif _defer(consumer, [delivery], why="they are not due yet"):
        ack()  # it returns with the other deferred messages, and is looked at again
    else:
        again = (task, consumer, settings, message)
        consumer.timer.call_after(_RETURNS_S, _receive, again)


def _named_dataset(settings: Settings, message: Any) -> str:
    """Return the location of the dataset that a wrong message names; "" if that is wrong too."""
    try:
        named = arguments_of(message)[1].get("dataset")
    except PARSE_ERRORS:
        return ""
    if not isinstance(named, str | None) or len(named or "") > MAX_DATASET_LENGTH:
        return ""
    return below(str(settings.output), named or single_items_name(settings.tower or "img"))


def _defer(consumer: Any, deliveries: Sequence[Delivery], *, why: str = _BUSY) -> bool:
    """Put messages aside in Redis; return False, so that they are held, if Redis does not."""
    channel, queue = consumer.task_consumer.channel, consumer.app.conf.task_default_queue
    fields = {"messages": len(deliveries), "items": sum(len(one.items) for one in deliveries)}
    try:
        with channel.conn_or_acquire() as client:
            defer(client, queue, [delivery.raw() for delivery in deliveries])
    except channel.connection_errors as error:
        log.warning("items not put aside", extra={**fields, "reason": reason_of(error)})
        return False
    log.info("items put aside in Redis", extra={**fields, "reason": why})
    return True


def _bring_back(consumer: Any) -> None:
    """Move deferred messages back to their queue, if that is due."""
    channel = consumer.task_consumer.channel
    try:
        with channel.conn_or_acquire() as client:
            moved = bring_back(client, consumer.app.conf.task_default_queue)
    except channel.connection_errors as error:  # the next call does it
        log.warning("items not brought back", extra={"reason": reason_of(error)})
        return
    if moved:
        log.info("items brought back to their queue", extra={"messages": moved})


class BatchRequest(Request):
    """A batch of messages as one of Celery's requests."""

    def __init__(self, batch: Batch, batcher: Batcher, task: Any, consumer: Any) -> None:
        self._batch = batch
        self._batcher = batcher
        self._error: Any = TimeoutError("it took too long")  # unless `on_failure` gets another
        arguments = [[item for delivery in batch.deliveries for item in delivery.items]]
        keywords = {
            "dataset": batch.dataset,
            "given_up": batch.given_up,
        }
        headers: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "task": task.name,
            "argsrepr": f"({batch.size} items)",
            "kwargsrepr": repr(keywords),
            "retries": batch.attempt - 1,
        }
        super().__init__(
            SimpleNamespace(delivery_info={}, properties={}, headers={}),
            on_ack=self._on_done,
            on_reject=self._on_failed,
            app=consumer.app,
            hostname=consumer.hostname,
            task=task,
            connection_errors=consumer.connection_errors,
            headers=headers,
            body=(arguments, keywords, {}),
            decoded=True,
        )

    def _on_done(self, *_: Any) -> None:
        self._batcher.finish(self._batch)

    def on_failure(self, exc_info: Any, *rest: Any, **more: Any) -> None:
        """Keep the error, then let Celery continue to `_on_failed`."""
        self._error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        super().on_failure(exc_info, *rest, **more)

    def _on_failed(self, *_: Any) -> None:
        """Run the batch again: its child raised an error or died."""
        log.warning(
            "batch failed, will be tried again",
            extra={"attempt": self._batch.attempt, "items": self._batch.size},
        )
        if isinstance(self._error, (WorkerLostError, SystemExit)):
            self._batcher.lost(self._batch, self._error)
            return
        by_task = isinstance(self._error, BatchFailed)  # its reason is that of the first error
        reason = str(self._error.reason) if by_task else reason_of(self._error)
        split = not isinstance(self._error, BatchPostponed)
        self._batcher.try_again(self._batch, split=split, reason=reason)

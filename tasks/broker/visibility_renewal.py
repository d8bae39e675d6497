"""Visibility renewal: a worker renews the visibility timeout of the messages that it holds.

Redis delivers a message again when its worker has not acknowledged it within the visibility
timeout. Because workers renew it, the timeout can be shorter than a shard takes, and the messages
of a killed machine are delivered again soon.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from clipfleet.tasks.broker.timer_step import TimerStep

_RENEWALS = 4  # per visibility timeout
_JOIN_S = 10.0

log = logging.getLogger(__name__)


class VisibilityRenewal(TimerStep):
    """A step of Celery's consumer: a timer in the event loop, and a thread while the worker stops.

    The loop ends when the worker is asked to stop, but the running shard continues.
    """

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._drain: threading.Thread | None = None
        self._drained = threading.Event()

    def start_timer(self, consumer: Any) -> Any:
        """Renew some times within each visibility timeout."""
        channel = consumer.task_consumer.channel
        interval_s = channel.visibility_timeout / _RENEWALS
        return consumer.timer.call_repeatedly(interval_s, renew, (channel,))

    def worker_stops(self, consumer: Any) -> None:
        """Continue in a thread."""
        channel = consumer.task_consumer.channel
        self._drain = threading.Thread(target=self._renew, args=(channel,), daemon=True)
        self._drain.start()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002
        """End the thread; the worker puts the messages that it still holds back to the queue."""
        self._drained.set()
        if self._drain is not None:
            self._drain.join(_JOIN_S)

    def _renew(self, channel: Any) -> None:
        while not self._drained.wait(channel.visibility_timeout / _RENEWALS):
            renew(channel)


def renew(channel: Any) -> None:
    """Hold every unacknowledged message of a channel for another visibility timeout.

    This uses private names of kombu: the tags of these messages are in `QoS._delivered` and not in
    `QoS._dirty`. A message whose answer was lost on the way has a tag that is in neither.
    """
    qos = channel.qos
    delivered = list(qos._delivered)  # noqa: SLF001 - a copy: the worker runs beside the thread
    tags = [tag for tag in delivered if tag not in qos._dirty]  # noqa: SLF001
    if not tags:
        return
    try:
        with channel.conn_or_acquire() as client:
            channel.held.renew(client, tags)
    except channel.connection_errors as error:
        # The event loop connects again, and the messages are then delivered again.
        log.warning("visibility timeout not renewed", extra={"reason": str(error)})

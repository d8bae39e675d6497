"""The lease: a living worker renews its hold on the messages that it has in hand.

Redis delivers a message again when its worker has not acknowledged it for the visibility
timeout. With the hold renewed, that time can be short, so that a killed machine's messages
come back soon, beside shards that take long.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from celery import bootsteps

from clipfleet.tasks.broker.in_flight import RENEWALS

_JOIN_S = 10.0

log = logging.getLogger(__name__)


class Lease(bootsteps.StartStopStep):
    """A step of Celery's consumer: a timer in the worker's event loop, then a thread.

    The loop ends when the worker is asked to stop, and the running shard goes on.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None
        self._drain: threading.Thread | None = None
        self._drained = threading.Event()

    def start(self, consumer: Any) -> None:
        """Begin, at each connection."""
        channel = consumer.task_consumer.channel
        interval_s = channel.visibility_timeout / RENEWALS
        self._entry = consumer.timer.call_repeatedly(interval_s, renew, (channel,))

    def stop(self, consumer: Any) -> None:
        """Go on in a thread if the worker stops; else the connection was lost, with the hold."""
        if self._entry is None:
            return
        self._entry.cancel()
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]
            channel = consumer.task_consumer.channel
            self._drain = threading.Thread(target=self._renew, args=(channel,), daemon=True)
            self._drain.start()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002
        """End: what is still in hand goes back to the queue now."""
        self._drained.set()
        if self._drain is not None:
            self._drain.join(_JOIN_S)

    def _renew(self, channel: Any) -> None:
        while not self._drained.wait(channel.visibility_timeout / RENEWALS):
            renew(channel)


def renew(channel: Any) -> None:
    """Set the time of every message that a channel has delivered, and not acknowledged, to now.

    This reaches into kombu: `QoS._delivered` has the tags of these messages, but for those in
    `_dirty`, and a sorted set in Redis their times. Tags that are no longer in the set stay away.
    """
    qos = channel.qos
    delivered = list(qos._delivered)  # noqa: SLF001 - a copy: the worker goes on beside the thread
    tags = [tag for tag in delivered if tag not in qos._dirty]  # noqa: SLF001
    if not tags:
        return
    try:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)
    except channel.connection_errors as error:
        # The event loop reconnects by itself; what was in hand is then delivered again.
        log.warning("lease not renewed", extra={"reason": str(error)})

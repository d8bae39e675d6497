"""The transport to Redis: kombu's, with three changes.

- A script in Redis takes a message and holds it for this worker, so no fault on the way loses it:
  see `clipfleet.tasks.broker.held_messages`. An empty queue is asked again after a pause.
- kombu parses an element of a queue's list where Celery handles no error. An element that is not a
  message, such as an item in bare JSON, would end the worker's event loop. Here it becomes a
  refusal.
- While Redis is out of memory, workers still start, take, embed and acknowledge messages, which
  frees memory.

The classes override names of kombu 5.7: `_brpop_start`, `_brpop_read`, `_size`, `_queue_bind` and
`_connparams` of `Channel`, `_deliver` of `Transport`, and `append`, `ack`, `reject`,
`restore_unacked`, `restore_visible` and `restore_by_tag` of `QoS`. A test checks that each exists.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from queue import Empty
from types import MappingProxyType
from typing import Any

from kombu import Connection
from kombu.asynchronous import get_event_loop
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, OutOfMemoryError, ResponseError

from clipfleet.tasks.broker.held_messages import HeldMessages
from clipfleet.tasks.broker.queue_stats import queue_length
from clipfleet.tasks.broker.redis_client import Client, is_out_of_memory
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.retry_policy import count_lost

# Errors from parsing a malformed message, here and in Celery's consumer. DataError: a field is
# null where Redis needs a value. RecursionError: thousands of lists in each other.
PARSE_ERRORS = (AttributeError, LookupError, RecursionError, TypeError, ValueError, DataError)

_PAUSE_S = 0.1  # before a queue that was empty is asked again

log = logging.getLogger(__name__)


class FleetQoS(kombu_redis.QoS):
    """kombu's list of the messages that this worker holds, without kombu's commands to Redis."""

    channel: FleetChannel

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message; Redis holds it for this worker already."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Delete a message that is done.

        If that fails, the message is released nevertheless: it is delivered again, and found done.
        Otherwise it would count towards the prefetch limit forever.
        """
        try:
            with self.channel.conn_or_acquire() as client:
                self.channel.held.delete(client, delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Delete a message, or put it back; release it in any case, as `ack` does."""
        if not requeue:
            self.ack(delivery_tag)
            return
        try:
            self.restore_by_tag(delivery_tag, leftmost=True)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back the messages that this worker holds, when it closes a connection.

        kombu may have dropped the address of a lost connection, and its error would end the worker.
        The messages are then delivered again after the visibility timeout.
        """
        if self.channel.connection.client is None:
            self._delivered.clear()  # type: ignore[union-attr]
        else:
            super().restore_unacked(client)

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Put back the messages that dead workers held."""
        channel = self.channel
        if channel.held.queue in channel.active_queues:  # a monitor reads only answers
            with channel.conn_or_acquire() as client:
                for tag, message in channel.held.expired(client):
                    channel.put_back(client, tag, message)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put back a message that this worker holds."""
        with self.channel.conn_or_acquire(client) as connected:
            message = self.channel.held.read(connected, tag)
            if message is not None:
                self.channel.put_back(connected, tag, message, last=leftmost)


class FleetChannel(kombu_redis.Channel):
    """A channel that takes messages with a script, and refuses malformed elements."""

    QoS = FleetQoS
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "held", "url_options")

    held: HeldMessages  # of the queue that a worker serves; a transport option
    url_options: Mapping[str, Any] = MappingProxyType({})  # of the URL of Redis; a transport option
    _tag = ""  # of the message that the pending command takes; "": it is another command
    _pausing = False
    _lost: frozenset[str] = frozenset()  # tags of messages whose process died

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask Redis for the next message, unless the queue was empty a moment ago."""
        if list(self.active_queues) != [self.held.queue]:  # a monitor waits for answers
            super()._brpop_start(timeout)  # type: ignore[misc]
        elif not self._pausing:
            self._tag = uuid.uuid4().hex
            self._in_poll = self.client.connection
            self._brpop_sent_at = time.monotonic()
            self.client.connection.send_command(*self.held.take_command(self._tag))

    def _brpop_read(self, **options: Any) -> Any:
        """Take the message that Redis sent."""
        if not self._tag:
            return super()._brpop_read(**options)  # type: ignore[misc]
        tag, self._tag = self._tag, ""
        connection = self.client.connection
        try:
            element = self.client.parse_response(connection, "EVAL", **options)
        except self.connection_errors:  # type: ignore[attr-defined]
            connection.disconnect()  # the next command connects again
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()  # type: ignore[attr-defined]
        if element is None:
            self._pause()
            raise Empty
        self._hand_over(tag, element)
        return True

    def _pause(self) -> None:
        """Let the event loop, if there is one, ask again in a moment."""
        loop = get_event_loop()
        if loop is not None:
            self._pausing = True
            loop.call_later(_PAUSE_S, self._end_pause)

    def _end_pause(self) -> None:
        self._pausing = False  # the loop asks next

    def _hand_over(self, tag: str, element: bytes) -> None:
        """Give a message to its consumer; delete it if it is none."""
        transport: Any = self.connection
        try:
            message = loads(bytes_to_str(element))
            message["properties"]["delivery_tag"] = tag
            delivered = transport._deliver(message, self.held.queue)  # noqa: SLF001
        except PARSE_ERRORS as error:
            transport.drop(error)
            delivered = False
        if not delivered:
            self.qos.ack(tag)

    def put_back(self, client: Client, tag: str, element: bytes, *, last: bool = False) -> None:
        """Put a held message back; count the loss if its process or another worker died with it."""
        lost = tag in self._lost or tag not in (self.qos._delivered or ())  # noqa: SLF001
        self._lost -= {tag}
        to, restored = self.held.queue, bytes_to_str(element)
        try:
            message = loads(restored)
            properties = message["properties"]
            info = properties["delivery_info"] = properties.get("delivery_info") or {}
            info["redelivered"] = True
            if lost:
                count_lost(message)
            to = self._q_for_pri(to, self._get_message_priority(message))  # type: ignore[attr-defined]
            restored = dumps(message)
        except PARSE_ERRORS:  # the worker that takes it next refuses it
            log.debug("an element is put back as it is", exc_info=True)
        self.held.put_back(client, tag, restored, to=to, last=last)

    def process_lost(self, tag: str) -> None:
        """Count a message that this worker holds as lost when it is put back."""
        self._lost |= {tag}

    def _size(self, queue: str) -> int:
        """Return how many messages wait; not in a transaction, which a full Redis refuses."""
        with self.conn_or_acquire() as client:
            return queue_length(client, queue)

    def _queue_bind(self, *binding: Any) -> None:
        """Write in Redis that an exchange leads to a queue.

        Only producers that name the exchange need that; clipfleet's name the queue. So a worker
        also starts while Redis is out of memory.
        """
        try:
            super()._queue_bind(*binding)  # type: ignore[misc]
        except ResponseError as error:
            if not is_out_of_memory(error):
                raise

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Return the connection parameters of Redis; the options of its URL precede kombu's.

        A task that ends after its connection was lost is acknowledged on the closed channel, which
        has no address any more; kombu's AttributeError would end the worker.

        Raises:
            ConnectionError: The channel was closed, or its connection.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection to Redis was lost meanwhile")
        return {**super()._connparams(asynchronous), **self.url_options}  # type: ignore[misc]


class FleetTransport(kombu_redis.Transport):
    """A transport that refuses an element that is not a message."""

    Channel = FleetChannel
    # A Redis that is out of memory may have room in a moment: kombu tries a refused command again.
    connection_errors = (*kombu_redis.Transport.connection_errors, OutOfMemoryError)

    def _deliver(  # type: ignore[override]
        self, message: Any, queue: str | None
    ) -> bool:
        """Give a message to the queue's consumer; return False if it was refused."""
        try:
            super()._deliver(message, queue)
        except PARSE_ERRORS as error:
            self.drop(error)
            return False
        return True

    def drop(self, error: BaseException) -> None:
        """Refuse an element that cannot be parsed; the settings are a transport option."""
        reason = f"what was queued is no message ({type(error).__name__}: {error})"
        connection: Any = self.client
        settings = connection.transport_options["settings"]
        refuse(settings, "garbage in Redis", "", reason=reason, planned=False)


class FleetConnection(Connection):
    """A connection that uses `FleetTransport` for redis, rediss and redis+socket URLs."""

    def get_transport_cls(self) -> type[FleetTransport]:
        """Return the transport's class."""
        return FleetTransport

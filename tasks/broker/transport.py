"""The transport to Redis: kombu's, with three changes.

- kombu parses an element of a queue's list after it popped it, where Celery handles no error. An
  element that is not a message, such as an item in bare JSON, would end the worker's event loop.
  Here it becomes a refusal.
- While Redis is out of memory, workers still take, embed and acknowledge messages, which frees
  memory.
- A message on its way to a worker is always in Redis: see `clipfleet.tasks.broker.in_flight`.

The classes override names of kombu 5.7: `_brpop_start`, `_brpop_read` and `_do_restore_message` of
`Channel`, `_deliver` of `Transport`, and `append`, `ack`, `reject`, `restore_visible` and
`restore_by_tag` of `QoS`. A test checks that each exists.
"""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import Any

from kombu import Connection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, OutOfMemoryError

from clipfleet.tasks.broker.in_flight import InFlight, put_back
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.retry_policy import count_lost

# Errors from parsing a malformed message, here and in Celery's consumer. DataError: its tag is
# null, which Redis cannot store.
PARSE_ERRORS = (AttributeError, LookupError, TypeError, ValueError, DataError)

_NO_IN_FLIGHT_S = 5.0  # after Redis was out of memory
_MAX_MOVED = 1000  # messages at once: the event loop waits

log = logging.getLogger(__name__)


class FleetQoS(kombu_redis.QoS):
    """kombu's QoS; it also works while Redis is out of memory, or after a lost connection."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record that this worker holds a message that was taken out of its queue.

        A Redis that is out of memory delivers the message, and refuses the record. The message is
        embedded nevertheless; it is lost only if this worker dies before.
        """
        in_flight = self.channel.in_flight  # type: ignore[attr-defined]
        try:
            if in_flight is None or not in_flight.full:
                super().append(message, delivery_tag)
            else:
                self._append_from(in_flight, message, delivery_tag)
        except OutOfMemoryError as error:
            virtual.QoS.append(self, message, delivery_tag)
            log.warning("message held without a record in Redis", extra={"reason": str(error)})

    def _append_from(self, in_flight: InFlight, message: Any, tag: str) -> None:
        """Write kombu's record and delete the message in flight, in one transaction."""
        info = message.delivery_info
        record = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {tag: time.time()})
            pipe.hset(self.unacked_key, tag, record)
            pipe.delete(in_flight.key)
            pipe.execute()
        in_flight.full = False
        virtual.QoS.append(self, message, tag)

    def ack(self, delivery_tag: str) -> None:
        """Delete the record of a message that is done.

        Not in a transaction, which a Redis that is out of memory refuses. If the deletion fails,
        the message is released nevertheless: it is delivered again, and found done. Otherwise it
        would count towards the prefetch limit forever.
        """
        try:
            with (
                self.channel.conn_or_acquire() as client,  # type: ignore[attr-defined]
                client.pipeline(transaction=False) as pipe,
            ):
                pipe.hdel(self.unacked_key, delivery_tag)  # kombu sweeps a mere index entry
                pipe.zrem(self.unacked_index_key, delivery_tag)
                pipe.execute()
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back; release it in any case, as `ack` does."""
        try:
            super().reject(delivery_tag, requeue)
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

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Put back the messages of dead workers, unacknowledged and in flight."""
        super().restore_visible(start, num, interval)
        channel: Any = self.channel
        for queue in channel.active_queues:
            with channel.conn_or_acquire() as client:
                self._put_back_lost(channel, client, queue)

    def _put_back_lost(self, channel: Any, client: Any, queue: str) -> None:
        """Move in-flight messages of dead workers, and those of other priorities, to a queue."""
        try:
            put = put_back(client, queue, visibility_timeout_s=self.visibility_timeout)
            if put:
                log.info("messages of dead workers put back", extra={"messages": put})
            for priority in channel.priority_steps:
                other = channel._q_for_pri(queue, priority)  # noqa: SLF001
                for _ in range(_MAX_MOVED if other != queue else 0):
                    if client.lmove(other, queue, "RIGHT", "RIGHT") is None:
                        break
        except OutOfMemoryError as error:  # tried again at the next sweep
            log.warning("messages not put back", extra={"reason": str(error)})

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put back a message that its worker did not acknowledge."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except OutOfMemoryError as error:  # put back later
            log.warning("message not put back", extra={"reason": str(error)})


class FleetChannel(kombu_redis.Channel):
    """A channel that takes messages through the in-flight list, and drops malformed elements."""

    QoS = FleetQoS

    in_flight: InFlight | None = None  # set on a channel that takes messages
    _lost: frozenset[str] = frozenset()  # tags of messages whose process died
    _taking = False  # the pending command moves a message to the in-flight list
    _no_in_flight_until_s = float("-inf")

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask Redis to move the next message to this worker's in-flight list.

        A worker has one queue. While Redis is out of memory it refuses to move a message, but
        not to pop it; then messages are taken as kombu does.
        """
        queues = list(self.active_queues)
        self._taking = len(queues) == 1 and self._announce(queues[0])
        if not self._taking:
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        wait_s = self.brpop_timeout if timeout is None else timeout
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(
            *self._in_flight_for(queues[0]).take_command(wait_s or 0)
        )

    def _announce(self, queue: str) -> bool:
        """Return whether the in-flight list can be used; renew its time stamp if necessary."""
        if time.monotonic() < self._no_in_flight_until_s:
            return False
        in_flight = self._in_flight_for(queue)
        try:
            if not in_flight.is_announced:
                with self.conn_or_acquire() as client:
                    in_flight.announce(client)
        except OutOfMemoryError:
            self._no_in_flight_until_s = time.monotonic() + _NO_IN_FLIGHT_S
            return False
        return True

    def _in_flight_for(self, queue: str) -> InFlight:
        if self.in_flight is None or self.in_flight.queue != queue:
            self.in_flight = InFlight(queue, visibility_timeout_s=self.visibility_timeout)
        return self.in_flight

    def _brpop_read(self, **options: Any) -> Any:
        """Take the message that Redis sent."""
        try:
            if self._taking and self.in_flight is not None:
                return self._take(self.in_flight, **options)
            return super()._brpop_read(**options)  # type: ignore[misc]
        except OutOfMemoryError as error:
            self._no_in_flight_until_s = time.monotonic() + _NO_IN_FLIGHT_S
            raise Empty from error
        except PARSE_ERRORS as error:  # not JSON; `_deliver` handles other errors
            self.connection.drop(error)  # type: ignore[attr-defined]
            raise Empty from error

    def _take(self, in_flight: InFlight, **options: Any) -> bool:
        """Deliver the message in flight; `FleetQoS.append` records it and clears the list."""
        try:
            element = self._reply(**options)
            if element is None:
                raise Empty
            in_flight.full = True
            self._deliver_from(in_flight, element)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()  # type: ignore[attr-defined]

    def _deliver_from(self, in_flight: InFlight, element: Any) -> None:
        try:
            self.connection._deliver(loads(bytes_to_str(element)), in_flight.queue)  # noqa: SLF001
        except self.connection_errors:  # type: ignore[attr-defined]
            raise  # it may have no record: it stays in flight, and is put back from there
        except PARSE_ERRORS:
            self._clear(in_flight)
            raise
        if in_flight.full:  # it was not a message
            self._clear(in_flight)

    def _reply(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, "BLMOVE", **options)
        except self.connection_errors:  # type: ignore[attr-defined]
            connection.disconnect()  # the next command connects again
            raise

    def _clear(self, in_flight: InFlight) -> None:
        with self.conn_or_acquire() as client:
            in_flight.clear(client)

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Return the connection parameters of Redis.

        A task that ends after its connection was lost is acknowledged on the closed channel, which
        has no address any more; kombu's AttributeError would end the worker.

        Raises:
            ConnectionError: The channel was closed, or its connection.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection to Redis was lost meanwhile")
        return super()._connparams(asynchronous)  # type: ignore[misc]

    def process_lost(self, tag: str) -> None:
        """Count a message that this worker holds as lost when it is put back."""
        self._lost |= {tag}

    def _do_restore_message(
        self, payload: Any, exchange: str, routing_key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        """Put a message back; count the loss if its process or another worker died with it."""
        tag = payload["properties"]["delivery_tag"]
        if tag in self._lost or tag not in (self.qos._delivered or ()):  # noqa: SLF001
            count_lost(payload)
        self._lost -= {tag}
        super()._do_restore_message(  # type: ignore[misc]
            payload, exchange, routing_key, pipe, leftmost
        )


class FleetTransport(kombu_redis.Transport):
    """A transport that refuses an element that is not a message."""

    Channel = FleetChannel
    # A Redis that is out of memory refuses a worker's first commands; the worker tries again.
    connection_errors = (*kombu_redis.Transport.connection_errors, OutOfMemoryError)

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except PARSE_ERRORS as error:
            self.drop(error)

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

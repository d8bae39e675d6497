"""The way to Redis: Celery's own, with three repairs.

A producer's mistake ends no worker: kombu parses an element of a queue's list after it has popped
it, outside of all that Celery guards. An element that is no message, such as an item in bare JSON,
would end the worker's event loop; here the element ends as a refusal.

A Redis that is out of memory ends no worker either: messages go on to be taken, embedded and
acknowledged, which makes room.

A message on its way to a worker is always in Redis: see `clipfleet.tasks.broker.in_flight`.

The classes rest on names of kombu 5.7: `Channel._brpop_start`, `_brpop_read` and
`_do_restore_message`,
`Transport._deliver`, and of `QoS` `append`, `ack`, `reject`, `restore_visible` and
`restore_by_tag`; a test feeds each of them.
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

from clipfleet.tasks.broker.in_flight import Hand, put_back
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.retry_policy import count_lost

# What a message of another form provokes, here and in Celery's consumer. DataError: its tag is
# null, which Redis cannot hold.
PARSE_ERRORS = (AttributeError, LookupError, TypeError, ValueError, DataError)

_WITHOUT_HAND_S = 5.0  # after Redis was out of memory
_MOST_MOVED = 1000  # at once: the event loop waits

log = logging.getLogger(__name__)


class CarefulQoS(kombu_redis.QoS):
    """What workers hold, also where Redis is out of memory, or the connection is lost."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record that this worker holds a message, which is in no list any more.

        A Redis that is out of memory gives the message, and refuses the record. The message is
        embedded all the same; it is lost only if this worker dies before.
        """
        hand = self.channel.hand  # type: ignore[attr-defined]
        try:
            if hand is None or not hand.full:
                super().append(message, delivery_tag)
            else:
                self._append_from(hand, message, delivery_tag)
        except OutOfMemoryError as error:
            virtual.QoS.append(self, message, delivery_tag)
            log.warning("message held without a record in Redis", extra={"reason": str(error)})

    def _append_from(self, hand: Hand, message: Any, tag: str) -> None:
        """Write kombu's record, and take the message out of the hand, in one transaction."""
        info = message.delivery_info
        record = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {tag: time.time()})
            pipe.hset(self.unacked_key, tag, record)
            pipe.delete(hand.key)
            pipe.execute()
        hand.full = False
        virtual.QoS.append(self, message, tag)

    def ack(self, delivery_tag: str) -> None:
        """Drop the record of a message that is done.

        Not in a transaction, which a Redis that is out of memory refuses whatever is in it. If
        it fails, the message is let go all the same: it comes back, and is found done. Kept in
        hand, it would take the place of another for ever.
        """
        try:
            with (
                self.channel.conn_or_acquire() as client,  # type: ignore[attr-defined]
                client.pipeline(transaction=False) as pipe,
            ):
                pipe.hdel(self.unacked_key, delivery_tag)  # an index of nothing is swept away
                pipe.zrem(self.unacked_index_key, delivery_tag)
                pipe.execute()
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back; let it go in any case, as `ack` does."""
        try:
            super().reject(delivery_tag, requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what this worker holds, when it lets go of a connection.

        Of one that was lost, kombu may have forgotten where it led; the error would end the worker.
        What it held comes back when the hold has run out.
        """
        if self.channel.connection.client is None:
            self._delivered.clear()  # type: ignore[union-attr]
        else:
            super().restore_unacked(client)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Put back what dead workers held, and what they were about to hold."""
        super().restore_visible(start, num, interval)
        channel: Any = self.channel
        for queue in channel.active_queues:
            with channel.conn_or_acquire() as client:
                self._gather(channel, client, queue)

    def _gather(self, channel: Any, client: Any, queue: str) -> None:
        """Bring messages from a queue's hands, and from its lists of other priorities, to it."""
        try:
            put = put_back(client, queue, visibility_timeout_s=self.visibility_timeout)
            if put:
                log.info("messages of dead workers put back", extra={"messages": put})
            for priority in channel.priority_steps:
                other = channel._q_for_pri(queue, priority)  # noqa: SLF001
                for _ in range(_MOST_MOVED if other != queue else 0):
                    if client.lmove(other, queue, "RIGHT", "RIGHT") is None:
                        break
        except OutOfMemoryError as error:  # later
            log.warning("messages not put back", extra={"reason": str(error)})

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back that its worker did not acknowledge."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except OutOfMemoryError as error:  # it stays where it is, and is put back later
            log.warning("message not put back", extra={"reason": str(error)})


class CarefulChannel(kombu_redis.Channel):
    """A channel on which an element that is no message is dropped."""

    QoS = CarefulQoS

    hand: Hand | None = None  # of a channel that takes messages
    _lost: frozenset[str] = frozenset()  # tags of messages whose process died
    _taking = False  # what was sent to Redis moves a message to the hand
    _without_hand_until_s = float("-inf")

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask Redis for the next message: to be moved to this worker's hand, in which it is safe.

        A worker has one queue. A Redis that is out of memory moves nothing and gives away all
        the same: then messages are taken as kombu does.
        """
        queues = list(self.active_queues)
        self._taking = len(queues) == 1 and self._show_hand(queues[0])
        if not self._taking:
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        wait_s = self.brpop_timeout if timeout is None else timeout
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(*self._hand_for(queues[0]).take_command(wait_s or 0))

    def _show_hand(self, queue: str) -> bool:
        """Return whether messages can be taken by hand."""
        if time.monotonic() < self._without_hand_until_s:
            return False
        hand = self._hand_for(queue)
        try:
            if not hand.is_shown:
                with self.conn_or_acquire() as client:
                    hand.show(client)
        except OutOfMemoryError:
            self._without_hand_until_s = time.monotonic() + _WITHOUT_HAND_S
            return False
        return True

    def _hand_for(self, queue: str) -> Hand:
        if self.hand is None or self.hand.queue != queue:
            self.hand = Hand(queue, visibility_timeout_s=self.visibility_timeout)
        return self.hand

    def _brpop_read(self, **options: Any) -> Any:
        """Take the message that Redis sent."""
        try:
            if self._taking and self.hand is not None:
                return self._take(self.hand, **options)
            return super()._brpop_read(**options)  # type: ignore[misc]
        except OutOfMemoryError as error:
            self._without_hand_until_s = time.monotonic() + _WITHOUT_HAND_S
            raise Empty from error
        except PARSE_ERRORS as error:  # it is not JSON; `_deliver` has the rest
            self.connection.drop(error)  # type: ignore[attr-defined]
            raise Empty from error

    def _take(self, hand: Hand, **options: Any) -> bool:
        """Deliver the message in the hand, which is recorded as held, and empty the hand."""
        try:
            element = self._reply(**options)
            if element is None:
                raise Empty
            hand.full = True
            self._deliver_from(hand, element)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()  # type: ignore[attr-defined]

    def _deliver_from(self, hand: Hand, element: Any) -> None:
        try:
            self.connection._deliver(loads(bytes_to_str(element)), hand.queue)  # noqa: SLF001
        except self.connection_errors:  # type: ignore[attr-defined]
            raise  # perhaps it has no record: it stays where it is, and goes back from there
        except PARSE_ERRORS:
            self._empty(hand)
            raise
        if hand.full:  # it was no message
            self._empty(hand)

    def _reply(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, "BLMOVE", **options)
        except self.connection_errors:  # type: ignore[attr-defined]
            connection.disconnect()  # the next one connects again
            raise

    def _empty(self, hand: Hand) -> None:
        with self.conn_or_acquire() as client:
            hand.empty(client)

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Tell how Redis is reached, when this channel connects.

        A task that ends after its connection was lost is acknowledged on the channel of then,
        which was closed and knows no address; kombu's AttributeError would end the worker.

        Raises:
            ConnectionError: The channel was closed, or its connection.
        """
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the connection to Redis was lost meanwhile")
        return super()._connparams(asynchronous)  # type: ignore[misc]

    def process_lost(self, tag: str) -> None:
        """Have a message that this worker holds be counted as lost when it is put back."""
        self._lost |= {tag}

    def _do_restore_message(
        self, payload: Any, exchange: str, routing_key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        """Put a message back; count it if its process, or another worker with it, was lost."""
        tag = payload["properties"]["delivery_tag"]
        if tag in self._lost or tag not in (self.qos._delivered or ()):  # noqa: SLF001
            count_lost(payload)
        self._lost -= {tag}
        super()._do_restore_message(  # type: ignore[misc]
            payload, exchange, routing_key, pipe, leftmost
        )


class CarefulTransport(kombu_redis.Transport):
    """A transport that refuses an element which is no message."""

    Channel = CarefulChannel
    # Out of memory, Redis refuses what a worker says when it starts; it tries again.
    connection_errors = (*kombu_redis.Transport.connection_errors, OutOfMemoryError)

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except PARSE_ERRORS as error:
            self.drop(error)

    def drop(self, error: BaseException) -> None:
        """Refuse an element whose parsing failed; the application's settings are an option."""
        reason = f"what was queued is no message ({type(error).__name__}: {error})"
        connection: Any = self.client
        settings = connection.transport_options["settings"]
        refuse(settings, "garbage in Redis", "", reason=reason, planned=False)


class CarefulConnection(Connection):
    """A connection by that transport, whatever its URL: redis, rediss or redis+socket."""

    def get_transport_cls(self) -> type[CarefulTransport]:
        """Return the transport's class, for `Connection.transport`."""
        return CarefulTransport

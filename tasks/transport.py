"""The way to Redis: Celery's own, which drops what is no message instead of ending the worker.

A list of Redis holds whatever somebody put there. kombu parses an element when it has popped it,
outside of all that Celery guards, so that one which is not a message ends the worker's event
loop. Here it ends as a refusal. The classes rest on names of kombu 5.7: `Channel._brpop_read` and
`_receive_one`, `Transport._deliver` and `QoS.restore_by_tag`; a test feeds each of them.
"""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

from kombu import Connection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import DataError

from clipfleet.settings import load_settings
from tasks.refusals import refuse

# What parsing provokes, here and in Celery's consumer. RecursionError: lists in each other;
# DataError: a tag that Redis cannot hold.
PARSE_ERRORS = (AttributeError, LookupError, TypeError, ValueError, RecursionError, DataError)

log = logging.getLogger(__name__)


class CarefulMessage(virtual.Message):
    """A message that is not unpacked: a small one might unpack to any size."""

    def __init__(self, payload: Any, channel: Any = None, **more: Any) -> None:
        if (payload.get("headers") or {}).get("compression"):
            raise ValueError("it is compressed: send it as it is")
        super().__init__(payload, channel=channel, **more)


class CarefulQoS(kombu_redis.QoS):
    """What workers hold, from which garbage is dropped when it would go back to its queue."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back that its worker did not acknowledge."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except PARSE_ERRORS as error:  # no list of message, exchange and routing key
            self._remove_from_indices(tag).execute()  # type: ignore[attr-defined]
            _drop("held", error)


class CarefulChannel(kombu_redis.Channel):
    """A channel on which an element that is no message is dropped."""

    Message = CarefulMessage
    QoS = CarefulQoS

    def _brpop_read(self, **options: Any) -> Any:
        """Take the element that Redis sent; it is in no list any more."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except PARSE_ERRORS as error:  # it is not JSON; `_deliver` has the rest
            _drop("queued", error)
            raise Empty from error

    def _receive_one(self, subclient: Any) -> Any:
        """Take what was published for remote control."""
        try:
            return super()._receive_one(subclient)  # type: ignore[misc]
        except PARSE_ERRORS as error:
            _drop("published", error)
            raise Empty from error


class CarefulTransport(kombu_redis.Transport):
    """A transport whose messages, and whose remote control's, may be anything."""

    Channel = CarefulChannel

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except PARSE_ERRORS as error:
            _drop("queued", error)


class CarefulConnection(Connection):
    """A connection by that transport, whatever its URL: redis, rediss or redis+socket."""

    def get_transport_cls(self) -> type[CarefulTransport]:
        """Return the transport's class, for `Connection.transport`."""
        return CarefulTransport


def _drop(place: str, error: BaseException) -> None:
    reason = f"what was {place} is no message ({type(error).__name__}: {error})"
    refuse(load_settings(), "garbage in Redis", "", reason=reason, planned=False)

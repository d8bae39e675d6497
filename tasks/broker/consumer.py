"""The worker's consumer of messages: it refuses a wrong message and continues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed, KombuError

from clipfleet.errors import MessageError
from clipfleet.messages import EMBED_ITEMS_TASK, EMBED_TASK
from clipfleet.settings import Settings
from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.broker.signing import check_signature
from clipfleet.tasks.broker.transport import PARSE_ERRORS
from clipfleet.tasks.retry_policy import reason_of
from clipfleet.validation import shortened

Handler = Callable[[Any], None]

# The headers that clipfleet uses. Headers are not signed: with `errbacks` or `chain` in a copy of
# a signed message, an attacker could make the worker queue, and sign, any task.
TRACE_HEADER = "traceparent"  # W3C's; a wrong one is ignored
_USED = ("task", "id", "retries", "eta", "expires", TRACE_HEADER)

_SHOWN_LENGTH = 200  # characters of a message's id in its refusal

log = logging.getLogger(__name__)


class FleetConsumer(Consumer):
    """Celery's consumer, in which an error in a message ends that message only.

    Celery parses headers and bodies in its event loop. A missing header or malformed arguments
    raise an exception there, which would end the loop, and end it again after a restart. (kombu
    takes KeyError, among others, for a lost connection.)

    If the fleet has a key, an unsigned message is refused before it is parsed.
    """

    connection_errors: tuple[type[BaseException], ...]

    def create_task_handler(self, *args: Any, **options: Any) -> Handler:
        """Return the function that receives every message."""
        handle: Handler = super().create_task_handler(*args, **options)
        settings, queue = settings_of(self.app), self.app.conf.task_default_queue
        keys = settings.message_keys

        def handle_or_refuse(message: Any) -> None:
            try:
                if keys:
                    check_signature(message, queue=queue, keys=keys)
                message.headers = used_headers(message.headers)
                handle(message)
            except MessageError as error:
                refuse_message(settings, message, error)
                message.reject_log_error(log, self.connection_errors)
            except (*PARSE_ERRORS, KombuError) as error:
                log.exception("message dropped: it cannot be read")
                refuse_message(settings, message, _unreadable(error))
                message.reject_log_error(log, self.connection_errors)

        return handle_or_refuse

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Count a message whose task clipfleet does not have, then drop it as Celery does."""
        headers = message.headers or {}
        name = headers["task"] if "task" in headers else message.payload["task"]  # protocol 1
        known = ", ".join((EMBED_ITEMS_TASK, EMBED_TASK))
        found = shortened(name, _SHOWN_LENGTH)
        self._count(message, f"there is no task {found}: expected one of {known}")
        super().on_unknown_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Count a message that names no task, then drop it as Celery does."""
        self._count(message, "it names no task: queue it with Celery's send_task")
        super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Count a message that Celery cannot take, then drop it as Celery does."""
        self._count(message, str(_unreadable(exc)))
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Count a message whose body cannot be read, then drop it as Celery does."""
        self._count(message, str(_unreadable(exc)))
        super().on_decode_error(message, exc)

    def _count(self, message: Any, reason: str) -> None:
        refuse_message(settings_of(self.app), message, MessageError(reason))


def used_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that clipfleet uses, without a message's other headers for Celery."""
    return {name: headers[name] for name in _USED if name in headers}


def _unreadable(error: Exception) -> MessageError:
    if isinstance(error, ContentDisallowed):
        return MessageError(f"{error}: send JSON (serializer='json')")
    return MessageError(f"it cannot be read ({type(error).__name__}: {error})")


def refuse_message(
    settings: Settings, message: Any, error: MessageError, *, dataset: str = ""
) -> None:
    """Record that a message is dropped; of the message, only its id is shown."""
    id_ = (message.headers or {}).get("id", "without an id")
    name = f"message {shortened(id_, _SHOWN_LENGTH)}"
    refuse(settings, name, dataset, reason=reason_of(error), planned=False)


def arguments_of(message: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and keyword arguments of a message, of protocol 1 or 2.

    Raises:
        ValueError, TypeError, KeyError: The body is neither.
    """
    body = message.payload
    args, kwargs = (body["args"], body["kwargs"]) if isinstance(body, dict) else body[:2]
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError(f"arguments are {type(args).__name__} and {type(kwargs).__name__}")
    return args, kwargs

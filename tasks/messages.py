"""Messages as they come off the queue: opened so that none of them can end the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError

from clipfleet.errors import MessageError
from clipfleet.settings import Settings, load_settings
from clipfleet.validation import shortened
from tasks.refusals import refuse
from tasks.retry import reason_of
from tasks.signing import check_signature
from tasks.transport import PARSE_ERRORS

Handler = Callable[[Any], None]

# What is used of headers, and of a body that has them in it (protocol 1). By others, which nobody
# signs, a message could end the worker (`timelimit` and `stamps` of odd types) or have it queue,
# and sign, what they name (`errbacks`, `chain`).
_USED = ("task", "id", "retries", "eta", "expires")
_USED_OF_A_BODY = (*_USED, "args", "kwargs", "utc")

_SHOWN_LENGTH = 200  # characters of a message's id in its refusal

log = logging.getLogger(__name__)


class CarefulConsumer(Consumer):
    """Celery's consumer, whose errors on an odd message end that message only.

    It parses headers and bodies as they come; an exception there, by a header that is
    missing or a body that is a list of one, would end its event loop, and after a restart
    the same message would again. KeyError is among what kombu takes for a lost connection.

    Where the fleet has a key, a message that is not signed ends here too, before any of it
    is looked at.
    """

    connection_errors: tuple[type[BaseException], ...]

    def create_task_handler(self, *args: Any, **options: Any) -> Handler:
        """Return what is called with every message."""
        handle: Handler = super().create_task_handler(*args, **options)
        settings, conf = load_settings(), self.app.conf
        signed = {"queue": conf.task_default_queue, "keys": conf.message_keys}

        def handle_with_care(message: Any) -> None:
            try:
                if signed["keys"]:
                    check_signature(message, **signed)
                keep_used(message)
                handle(message)
            except MessageError as error:
                refuse_message(settings, message, error)
                message.reject_log_error(log, self.connection_errors)
            except (*PARSE_ERRORS, KombuError):
                log.exception("message dropped: it cannot be read")
                message.reject_log_error(log, self.connection_errors)

        return handle_with_care


def keep_used(message: Any) -> None:
    """Take away what a message says to Celery beyond what the fleet uses.

    Raises:
        MessageError: It counts its tries in no number.
    """
    message.headers = {name: message.headers[name] for name in _USED if name in message.headers}
    body, used = message.payload, [message.headers]
    if isinstance(body, dict):
        for name in body.keys() - set(_USED_OF_A_BODY):
            del body[name]  # what Celery reads, too
        used.append(body)
    for retries in (fields.get("retries") or 0 for fields in used):
        if not isinstance(retries, int):
            raise MessageError(f"retries is {shortened(retries, _SHOWN_LENGTH)}, not a number")


def refuse_message(settings: Settings, message: Any, error: MessageError) -> None:
    """Record that a message is dropped of which nothing but its id is believed."""
    id_ = (message.headers or {}).get("id", "without an id")
    named = f"message {shortened(id_, _SHOWN_LENGTH)}"
    refuse(settings, named, "", reason=reason_of(error), planned=False)


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

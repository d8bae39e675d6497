"""Messages as they come off the queue: a wrong one is refused, and ends no worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError

from clipfleet.errors import MessageError
from clipfleet.settings import Settings
from clipfleet.tasks.app_settings import settings_of
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.broker.signing import check_signature
from clipfleet.tasks.broker.transport import PARSE_ERRORS
from clipfleet.tasks.retry_policy import reason_of
from clipfleet.validation import shortened

Handler = Callable[[Any], None]

# The headers that the fleet uses. No header is signed: by `errbacks` or `chain`, a stranger's
# copy of a signed message could have the worker queue, and sign, what they name.
_USED = ("task", "id", "retries", "eta", "expires")

_SHOWN_LENGTH = 200  # characters of a message's id in its refusal

log = logging.getLogger(__name__)


class CarefulConsumer(Consumer):
    """Celery's consumer, whose errors on a wrong message end that message only.

    Celery parses headers and bodies as they come. An exception there, by a header that is
    missing or arguments of another form, would end its event loop, and after a restart the
    same message would again. KeyError is among what kombu takes for a lost connection.

    Where the fleet has a key, a message that is not signed ends here too, before any of it
    is looked at.
    """

    connection_errors: tuple[type[BaseException], ...]

    def create_task_handler(self, *args: Any, **options: Any) -> Handler:
        """Return what is called with every message."""
        handle: Handler = super().create_task_handler(*args, **options)
        settings, queue = settings_of(self.app), self.app.conf.task_default_queue
        keys = settings.message_keys

        def handle_with_care(message: Any) -> None:
            try:
                if keys:
                    check_signature(message, queue=queue, keys=keys)
                message.headers = used_of(message.headers)
                handle(message)
            except MessageError as error:
                refuse_message(settings, message, error)
                message.reject_log_error(log, self.connection_errors)
            except (*PARSE_ERRORS, KombuError):
                log.exception("message dropped: it cannot be read")
                message.reject_log_error(log, self.connection_errors)

        return handle_with_care


def used_of(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that the fleet uses, without what else a message says to Celery."""
    return {name: headers[name] for name in _USED if name in headers}


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

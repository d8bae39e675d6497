"""Messages as they come off the queue: opened so that none of them can end the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

Handler = Callable[[Any], None]

# What parsing provokes. KeyError is among what kombu takes for a lost connection.
_PARSE_ERRORS = (AttributeError, LookupError, TypeError, ValueError)

log = logging.getLogger(__name__)


class CarefulConsumer(Consumer):
    """Celery's consumer, whose errors on an odd message end that message only.

    It parses headers and bodies as they come; an exception there, by a header that is
    missing or a body that is a list of one, would end its event loop, and after a restart
    the same message would again.
    """

    connection_errors: tuple[type[BaseException], ...]

    def create_task_handler(self, *args: Any, **options: Any) -> Handler:
        """Return what is called with every message."""
        handle: Handler = super().create_task_handler(*args, **options)

        def handle_with_care(message: Any) -> None:
            try:
                handle(message)
            except _PARSE_ERRORS:
                log.exception("message dropped: it cannot be read")
                message.reject_log_error(log, self.connection_errors)

        return handle_with_care


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

"""Messages as they come off the queue: opened so that none of them can end the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import strategy
from kombu.exceptions import ContentDisallowed, DecodeError

Handler = Callable[..., Any]

_HANDLED = (InvalidTaskError, ContentDisallowed, DecodeError)  # by Celery: logged and dropped


def guarded(task: Any, app: Any, consumer: Any) -> Handler:
    """Return Celery's own strategy, whose errors on odd messages end one message only."""
    return guard(strategy.default(task, app, consumer))


def guard(handler: Handler) -> Handler:
    """Return a message handler that turns whatever a message provokes into a refusal of it.

    Celery parses headers and body as they come; an exception there, by a header that is
    missing or a body that is a list of one, ends its event loop, and again after a restart.
    """

    def handle(message: Any, *rest: Any) -> Any:
        try:
            return handler(message, *rest)
        except _HANDLED:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidTaskError(f"{type(error).__name__}: {error}") from error

    return handle


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

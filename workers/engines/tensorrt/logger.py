"""TensorRT's log messages: the reason why a TensorRT call failed is only there."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

Forward = Callable[[str, str], None]  # a severity's name, a message

_KEPT_MESSAGES = 20
_KEPT_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING")


class Messages:
    """TensorRT's last warnings and errors."""

    def __init__(self, forward: Forward | None = None) -> None:
        """`forward` is called with each message of each severity."""
        self._forward = forward
        self._kept: deque[tuple[str, str]] = deque(maxlen=_KEPT_MESSAGES)

    def clear(self) -> None:
        """Drop all messages, so that later ones are of the next call."""
        self._kept.clear()

    def add(self, severity: str, message: str) -> None:
        if severity in _KEPT_SEVERITIES:
            self._kept.append((severity, message))
        if self._forward is not None:
            self._forward(severity, message)

    @property
    def errors(self) -> list[str]:
        """The error messages, oldest first."""
        return [message for severity, message in self._kept if severity.endswith("ERROR")]

    def explain(self) -> str:
        """Return the errors in one line, or the warnings if there is no error."""
        return "; ".join(self.errors or [message for _, message in self._kept]) or "no reason given"

    def logger(self, trt: ModuleType) -> Any:
        """Return an `ILogger` that adds to these messages; keep it as long as its users live."""
        add = self.add

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                add(severity.name, msg)

        return Logger()


@cache
def process_logger(trt: ModuleType) -> tuple[Messages, Any]:
    """Return the messages of this process's builders and runtimes, and their logger.

    TensorRT keeps its first logger as long as a user of it lives. A second logger would get no
    message, and TensorRT would call a logger that was freed.
    """
    messages = Messages(_to_log)
    return messages, messages.logger(trt)


def _to_log(severity: str, message: str) -> None:
    level = logging.WARNING if severity.endswith("ERROR") else logging.DEBUG
    log.log(level, "TensorRT: %s", message)

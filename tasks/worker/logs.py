"""Structured logs without credentials: JSON lines for machines, plain lines on a terminal."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from clipfleet.settings import Settings
from clipfleet.tasks.broker.broker_url import HIDDEN, secrets_of

# Celery's own line for every message and task adds nothing to ours, and repeats a message's items.
_QUIET = ("celery.app.trace", "celery.worker.strategy", "multiprocessing", "kombu")
# The attributes of every record; others are the fields of its event.
_RECORD_FIELDS = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_MIN_SECRET_LENGTH = 3  # a shorter one would be replaced in most lines


class _JsonFormatter(JsonFormatter):
    """Fields time, level, pid, logger, event, then the fields of the event."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__(
            "{asctime}{levelname}{process}{name}{message}",
            style="{",
            datefmt="%Y-%m-%dT%H:%M:%S%z",
            rename_fields={
                "asctime": "time",
                "levelname": "level",
                "process": "pid",
                "name": "logger",
                "message": "event",
            },
            json_ensure_ascii=False,
        )
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return _without(self._secrets, super().format(record))


class _TextFormatter(logging.Formatter):
    """Time, level and event, then the fields of the event as name=value."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__("{asctime} {levelname:7} {message}", style="{", datefmt="%H:%M:%S")
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = {name: value for name, value in vars(record).items() if name not in _RECORD_FIELDS}
        shown = "".join(f"  {name}={value}" for name, value in fields.items())
        return super().formatMessage(record) + shown

    def format(self, record: logging.LogRecord) -> str:
        return _without(self._secrets, super().format(record))


def _without(secrets: list[str], line: str) -> str:
    for secret in secrets:
        line = line.replace(secret, HIDDEN)
    return line


def set_up_logs(settings: Settings) -> None:
    """Send logs, INFO and above, to standard error: JSON lines, or text to a terminal."""
    secrets = [*secrets_of(settings.redis_url), *settings.message_keys]
    secrets = [secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH]
    handler = logging.StreamHandler(sys.stderr)
    on_terminal = sys.stderr.isatty()
    handler.setFormatter(_TextFormatter(secrets) if on_terminal else _JsonFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)

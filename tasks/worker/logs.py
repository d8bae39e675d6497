"""Structured logs: one JSON object a line, without credentials."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import HIDDEN, secrets_of

# Celery's own line for every message and task says nothing that ours do not, and repeats the
# items of a message.
_QUIET = ("celery.app.trace", "celery.worker.strategy", "multiprocessing", "kombu")
_MIN_SECRET_LENGTH = 3  # a shorter one would blank out half of every line


class _Formatter(JsonFormatter):
    """Fields time, level, pid, logger, event, then what the event has to tell."""

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
        self._secrets = [s for s in secrets if len(s) >= _MIN_SECRET_LENGTH]

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line


def set_up_logs(settings: Settings) -> None:
    """Send this process's logs to standard error as JSON lines, INFO and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter([*secrets_of(settings.redis_url), *settings.message_keys]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)

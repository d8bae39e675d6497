"""The heartbeat: a file that a worker touches while it takes messages from Redis.

A healthcheck compares the file's age with the clock, without Python.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from celery import signals

from clipfleet.errors import UsageError

log = logging.getLogger(__name__)


def start_heartbeat(file: str) -> None:
    """Touch `file` at each heartbeat of this process's worker: every 2 s, while Redis answers.

    A worker that is stopping, or lost its connection, does not touch the file.

    Raises:
        UsageError: The file's folder cannot be written to.
    """
    path = Path(file).absolute()
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"heartbeat_file {path}: the folder {path.parent} cannot be written to")

    def touch(**_: Any) -> None:
        try:
            path.touch()
        except OSError as error:
            log.warning("heartbeat file not touched", extra={"reason": str(error)})

    signals.heartbeat_sent.connect(touch, weak=False)

"""Last words: what a worker's child tells its parent when it must end the worker.

A child without its engine or its GPU can do no work, and left alone the parent would start
another for ever. So the child leaves a file with the reason, asks its parent to stop, and goes
without an answer: what it had in hand is then back in the queue, and counts as no attempt.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import time
import uuid
from pathlib import Path
from typing import NoReturn

from clipfleet.errors import EngineError, GpuLostError
from clipfleet.settings import ENGINE_REPORT_VARIABLE
from clipfleet.tasks.retry_policy import reason_of

_PID_VARIABLE = f"{ENGINE_REPORT_VARIABLE}_PID"  # the worker's, which alone is signalled
_WAIT_S = 2.0  # before the child goes, so that the parent stops and starts no other

log = logging.getLogger(__name__)


def end_worker(error: BaseException, *, event: str, told: str = "") -> NoReturn:
    """End this child and its parent, which tells the reason; `told` goes before it.

    No clean-up runs: the runtime of a lost GPU may hang in it. Nothing keeps the child alive:
    without an engine it would fail every message that it is given.
    """
    try:
        log.critical(event, extra={"reason": reason_of(error)})
        lost = isinstance(error, GpuLostError)
        _write({"gpu_lost": lost, "reason": f"{told}{reason_of(error)}"})
    finally:
        try:
            _stop_worker()
            time.sleep(_WAIT_S)
        finally:
            os._exit(1)


def _write(words: dict[str, object]) -> None:
    """Leave the words; on a full disk the log has them all the same."""
    path = os.environ.get(ENGINE_REPORT_VARIABLE)
    if not path:
        return
    # The reason of an earlier child stands, too.
    with contextlib.suppress(OSError), open(path, "x", encoding="utf-8") as report:
        json.dump(words, report)


def _stop_worker() -> None:
    """Send SIGTERM to the worker; once it is gone, this child's parent is some other process."""
    if os.environ.get(_PID_VARIABLE) == str(os.getppid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getppid(), signal.SIGTERM)


def gpu_lost(error: GpuLostError) -> NoReturn:
    """End the worker whose GPU is gone; the message at hand is left unacknowledged."""
    end_worker(error, event="GPU lost, worker stops", told="the worker lost its GPU: ")


class Report:
    """The file that a child's last words go to; there is none before it speaks."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir(), f"clipfleet-{uuid.uuid4().hex}")
        os.environ[ENGINE_REPORT_VARIABLE] = str(self._path)
        os.environ[_PID_VARIABLE] = str(os.getpid())

    def check(self) -> None:
        """Read the file and delete it.

        Raises:
            GpuLostError, EngineError: A child ended the worker; with the reason.
        """
        if not self._path.exists():
            return
        try:
            words = json.loads(self._path.read_text(encoding="utf-8"))
            kind, reason = (GpuLostError if words["gpu_lost"] else EngineError), words["reason"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            kind = EngineError
            reason = f"a child ended the worker; its reason stands in the log above ({error!r})"
        with contextlib.suppress(OSError):
            self._path.unlink()
        raise kind(reason)

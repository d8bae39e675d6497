"""Fatal errors: a worker's child reports an error to its parent, and ends the worker.

A child without its engine or its GPU can do no work, and the parent would start another one each
time. So the child writes a file with the reason, asks its parent to stop, and exits. Its messages
then go back to the queue, and the loss is not counted as an attempt. The parent writes the file for
children that die before they can.
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
_WAIT_S = 2.0  # before the child exits, so that the parent stops and starts no other

log = logging.getLogger(__name__)


def end_worker(error: BaseException, *, event: str, prefix: str = "") -> NoReturn:
    """End this child and its parent, which reports `prefix` and the error.

    The child exits without clean-up, in which the runtime of a lost GPU may hang, and in any case:
    without an engine it would fail every message.
    """
    try:
        log.critical(event, extra={"reason": reason_of(error)})
        lost = isinstance(error, GpuLostError)
        _write({"gpu_lost": lost, "reason": f"{prefix}{reason_of(error)}"})
    finally:
        try:
            _stop_parent()
            time.sleep(_WAIT_S)
        finally:
            os._exit(1)


def stop_worker(reason: str, *, event: str) -> None:
    """Stop this process, the worker, which reports the reason at its end."""
    log.critical(event, extra={"reason": reason})
    _write({"gpu_lost": False, "reason": reason})
    os.kill(os.getpid(), signal.SIGTERM)


def _write(report: dict[str, object]) -> None:
    """Write the report; if the disk is full, the log has the reason."""
    path = os.environ.get(ENGINE_REPORT_VARIABLE)
    if not path:
        return
    # "x": the report of an earlier child stays.
    with contextlib.suppress(OSError), open(path, "x", encoding="utf-8") as file:
        json.dump(report, file)


def _stop_parent() -> None:
    """Send SIGTERM to the worker, unless it has ended and another process is the parent."""
    if os.environ.get(_PID_VARIABLE) == str(os.getppid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getppid(), signal.SIGTERM)


def gpu_lost(error: GpuLostError) -> NoReturn:
    """End the worker after its GPU failed; the present message stays unacknowledged."""
    end_worker(error, event="GPU lost, worker stops", prefix="the worker lost its GPU: ")


class FatalErrorReport:
    """The path of a child's report; the file exists only after a fatal error."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir(), f"clipfleet-{uuid.uuid4().hex}")
        os.environ[ENGINE_REPORT_VARIABLE] = str(self._path)
        os.environ[_PID_VARIABLE] = str(os.getpid())

    def check(self) -> None:
        """Read and delete the file, and raise its error; do nothing without a file.

        Raises:
            GpuLostError, EngineError: A child ended the worker, for the reason in the message.
        """
        if not self._path.exists():
            return
        try:
            report = json.loads(self._path.read_text(encoding="utf-8"))
            kind, reason = (GpuLostError if report["gpu_lost"] else EngineError), report["reason"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            kind = EngineError
            reason = f"a child ended the worker; the log above has the reason ({error!r})"
        with contextlib.suppress(OSError):
            self._path.unlink()
        raise kind(reason)

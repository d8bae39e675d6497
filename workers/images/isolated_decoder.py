"""Decodes images in a separate process, to find the image that ends its decoder.

A picture can end the process that decodes it (by a fault in a decoder's C code, or by its
memory) or block it for ever. Here that costs a small process, which is started again. The
picture is tried alone a few times; then it becomes an error with the reason.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.error_codes import DECODE_TIMEOUT, DECODER_CRASHED, ERROR_CODES
from clipfleet.errors import ItemError, StorageError
from clipfleet.settings import PREFIX
from clipfleet.workers.closing import Closing
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.item_errors import item_error, shown

_MODULE = "clipfleet.workers.images.decoder_process"
_START_S = 60.0  # a busy machine starts a process slowly
_END_S = 5.0
_PAUSE_S = 0.5  # doubled each time, after a kill that may have come from outside

# A decoder's memory limit: above the measured need of any sound image of the allowed pixels (JPEG
# 2000 needs most, some 40 bytes a pixel), and low enough that a bomb fails before the machine.
_MEMORY_A_PIXEL = 48  # bytes
_MEMORY_BESIDES = 1 << 30  # bytes

_MAX_ANSWER_BYTES = 1 << 16  # of the JSON line before the pixels

_CLOSED = "the decoder was closed while it had an image"

log = logging.getLogger(__name__)


class IsolatedDecoder(Closing):
    """Decodes images one at a time in another process; a context manager, safe between threads.

    If the process dies or exceeds `timeout_s`, the picture is tried again, up to `attempts` times.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        attempts: int,
        timeout_s: float,
        pause_s: float = _PAUSE_S,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`progress` is called after the start of a process, and between attempts."""
        self._limits = limits
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._progress = progress
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._is_closed = False

    def decode_into(self, data: bytes, name: str, out: NDArray[np.float32]) -> tuple[int, int]:
        """Write an image's pixels to `out`, float32 (3, S, S), and return its (width, height).

        Raises:
            ItemError: As for `decode` and `preprocess_into`; or the process died or exceeded
                the timeout at each attempt. `name` is for the message.
            StorageError: No process can be started, or the decoder was closed meanwhile.
        """
        with self._lock:
            for attempt in range(1, self._attempts + 1):
                process = self._open()
                try:
                    return process.decode_into(data, name, out, self._timeout_s)
                except _DecoderLostError as lost:
                    self._end_process()
                    if self._is_closed:
                        raise StorageError(_CLOSED) from lost
                    context = {"image": shown(name), "attempt": attempt, "reason": str(lost)}
                    log.warning("image ended its decoder", extra=context)
                    if attempt == self._attempts:
                        raise self._given_up(name, lost) from lost
                    self._progress()
                    if lost.killed:  # perhaps by an operator, or for a short lack of memory
                        time.sleep(self._pause_s * 2 ** (attempt - 1))
            raise AssertionError("an attempt neither returned nor raised")

    def _given_up(self, name: str, lost: _DecoderLostError) -> ItemError:
        times = f"{self._attempts} times, each time alone; the last time it {lost}"
        if lost.timed_out:
            return ItemError(DECODE_TIMEOUT, f"{shown(name)} held its decoder {times}")
        return ItemError(DECODER_CRASHED, f"{shown(name)} ended its decoder {times}")

    def _open(self) -> _Process:
        if self._process is None and not self._is_closed:
            self._process = _Process(self._limits)
            self._progress()
        if self._process is None or self._is_closed:  # `close` may have run before the assignment
            raise StorageError(_CLOSED)
        return self._process

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def close(self) -> None:
        """End the process, if there is one, even during a picture."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()  # so that the thread that waits for it releases the lock
        with self._lock:
            self._end_process()


class _DecoderLostError(Exception):
    """The process died, or gave no answer in time."""

    def __init__(self, reason: str, *, killed: bool = False, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed  # with SIGKILL: by the kernel for its memory, or by an operator
        self.timed_out = timed_out


class _Process:
    """A running `clipfleet.workers.images.decoder_process`, and the socket to it."""

    def __init__(self, limits: ImageLimits) -> None:
        """Start the process.

        Raises:
            StorageError: The process does not start: no picture is the cause.
        """
        memory = _MEMORY_BESIDES + limits.max_bytes + _MEMORY_A_PIXEL * limits.max_pixels
        arguments = [str(os.getpid()), str(limits.max_pixels), str(memory)]
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        except OSError as error:
            self._socket.close()
            raise StorageError(f"no process to decode images starts now: {error}") from error
        finally:
            theirs.close()
        self._answers: BinaryIO = self._socket.makefile("rb")
        try:
            self._socket.settimeout(_START_S)
            ready = self._answers.readline()
        except OSError:
            ready = b""
        if not ready:
            reason = self._end()
            self.close()
            raise StorageError(f"the process to decode images did not start: it {reason}")

    def decode_into(
        self, data: bytes, name: str, out: NDArray[np.float32], timeout_s: float
    ) -> tuple[int, int]:
        """Send an image, and write its pixels to `out`; return its (width, height).

        Raises:
            ItemError: The process answers with an error.
            _DecoderLostError: The process died or exceeded `timeout_s`; it cannot be used again.
        """
        request = {"name": name, "bytes": len(data), "resolution": out.shape[-1]}
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            self._socket.sendall(data)
            answer = json.loads(self._answers.readline(_MAX_ANSWER_BYTES))
            if "error" in answer:
                raise _item_error(answer["error"], answer["message"])
            width, height = map(_pixels, answer["size"])
            out[:] = np.frombuffer(self._answers.read(out.nbytes), out.dtype).reshape(out.shape)
            return width, height
        except TimeoutError as error:
            raise _DecoderLostError(f"took more than {timeout_s:g} s", timed_out=True) from error
        # A cut-off answer, or any content: a picture may have taken control of the process.
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            reason = self._end()
            killed = self._process.returncode == -signal.SIGKILL
            raise _DecoderLostError(reason, killed=killed) from error

    def _end(self) -> str:
        """Wait for a process that closed its socket, and return how it ended."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "did not answer"
        if code < 0:
            return f"died of {_signal_name(-code)}"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._socket.close()


def _item_error(code: object, message: object) -> ItemError:
    if not isinstance(message, str) or not isinstance(code, str) or code not in ERROR_CODES:
        raise ValueError("its answer is no class of error with a message")
    return item_error(code, message)


def _pixels(side: int) -> int:
    if type(side) is not int or not 0 < side < 1 << 31:
        raise ValueError(f"{side!r} is no width or height")
    return side


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _environment() -> dict[str, str]:
    """Return this process's environment without the fleet's settings, which have passwords."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, "OPENBLAS_NUM_THREADS": "1"}  # each thread's stack counts as memory

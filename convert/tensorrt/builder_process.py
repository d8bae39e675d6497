"""Run the builder in a child process: report its progress, limit its time, always end it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import clipfleet
from clipfleet import errors
from clipfleet.convert.tensorrt.options import BuildRequest, BuildResult
from clipfleet.errors import ClipfleetError, ConversionError

Progress = Callable[[str], None]

_MODULE = "clipfleet.convert.tensorrt.builder_main"
_TICK_S = 15.0  # longest time without a line of progress
_READ_BYTES = 1 << 16


def run_builder(
    request: BuildRequest,
    *,
    progress: Progress,
    limit_s: float | None = None,
    stop: threading.Event | None = None,
) -> BuildResult:
    """Build an engine in a child process, which is killed if this function ends early.

    Raises:
        ConversionError: The build failed, crashed, took more than `limit_s` seconds, or `stop`
            was set meanwhile.
        DependencyError: TensorRT is not installed.
    """
    reading, writing = os.pipe()
    try:
        child = _start(writing)
    finally:
        os.close(writing)
    try:
        _send(child, request)
        lines = _until(stop, _lines(reading))
        return _follow(child, lines, request, progress, limit_s)
    finally:
        os.close(reading)
        _kill(child)


def _start(events: int) -> subprocess.Popen[bytes]:
    """Start the child in the folder that holds our package, where no user module shadows it."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", _MODULE, str(events)],
        stdin=subprocess.PIPE,
        pass_fds=[events],
        cwd=Path(clipfleet.__file__).parents[1],  # not in a folder of it: one is named tensorrt
        env={**os.environ, "PYTHONPATH": path},
    )


def _send(child: subprocess.Popen[bytes], request: BuildRequest) -> None:
    """Write the request, and keep the pipe open: the child ends when it closes."""
    if child.stdin is not None:
        with suppress(BrokenPipeError):  # the child ended; the missing answer is an error
            child.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            child.stdin.flush()


def _follow(
    child: subprocess.Popen[bytes],
    lines: Iterator[str],
    request: BuildRequest,
    progress: Progress,
    limit_s: float | None,
) -> BuildResult:
    started = reported = time.monotonic()
    step = "starting"
    for line in lines:
        now = time.monotonic()
        elapsed_s = now - started
        event: dict[str, Any] = json.loads(line) if line else {}
        if "done" in event:
            return BuildResult(**event["done"])
        if "error" in event:
            raise _error(**event["error"])
        if "progress" in event:
            step, reported = event["progress"], now
            progress(step)
        elif now - reported >= _TICK_S:
            reported = now
            progress(f"{step} ({elapsed_s:.0f} s)")
        if limit_s is not None and elapsed_s > limit_s:
            raise ConversionError(
                f"{request.onnx} was not built within {limit_s:g} s (last: {step}): allow more "
                "with --limit-s, or search less with a lower --optimization-level"
            )
    raise ConversionError(_crash(child, request, step, time.monotonic() - started))


def _lines(reading: int) -> Iterator[str]:
    """Yield the child's lines until it ends, and an empty one for each second without a line."""
    rest = b""
    while True:
        if not select.select([reading], [], [], 1.0)[0]:
            yield ""
            continue
        data = os.read(reading, _READ_BYTES)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8") for line in lines)


def _until(stop: threading.Event | None, lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines until `stop` is set.

    Raises:
        ConversionError: `stop` is set.
    """
    for line in lines:
        if stop is not None and stop.is_set():
            raise ConversionError("the build was stopped")
        yield line


def _error(*, kind: str, message: str) -> ClipfleetError:
    error: ClipfleetError = getattr(errors, kind, ConversionError)(message)
    return error


def _crash(
    child: subprocess.Popen[bytes], request: BuildRequest, step: str, elapsed_s: float
) -> str:
    code = child.wait()
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    text = (
        f"TensorRT's builder ended with {how} after {elapsed_s:.0f} s ({step}) and left no "
        f"engine of {request.onnx}; its messages, if any, are above"
    )
    return f"{text}. The system kills what takes too much memory" if how.endswith("KILL") else text


def _kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()

"""A process that decodes one image after another, apart from the engine's process.

`isolated_decoder` starts it. Requests and answers go over its standard input, a socket: a line
of JSON, then bytes. The process opens no file: the request has the picture's bytes. If a
picture ends the process, that costs one attempt of the picture.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import ItemError
from clipfleet.workers.images.decode import ImageLimits, configure_pillow, decode
from clipfleet.workers.images.preprocess import preprocess_into

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_PATH = "/proc/self/oom_score_adj"
_MAX_OOM_SCORE = "1000"


def main(parent_pid: int, max_pixels: int, memory_bytes: int) -> None:
    """Answer requests until the other end closes the socket or exits."""
    _exit_with(parent_pid)
    _limit_memory(memory_bytes)
    configure_pillow(ImageLimits(max_pixels=max_pixels))
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        requests, answers = connection.makefile("rb"), connection.makefile("wb")
        answers.write(b"ready\n")
        answers.flush()
        while line := requests.readline():
            request = json.loads(line)
            pixels = np.empty((3, request["resolution"], request["resolution"]), dtype=np.float32)
            data = requests.read(request["bytes"])
            answer = _decoded(data, request["name"], max_pixels, pixels)
            del data  # free it before the next request
            _send(answers, answer, pixels)


def _decoded(
    data: bytes, name: str, max_pixels: int, pixels: NDArray[np.float32]
) -> dict[str, object]:
    try:
        image, size = decode(data, name, max_pixels)
        preprocess_into(image, pixels)
    except ItemError as error:
        return {"error": error.code, "message": str(error)}
    return {"size": size}


def _send(answers: BinaryIO, answer: dict[str, object], pixels: NDArray[np.float32]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    if "size" in answer:
        answers.write(pixels.data.cast("B"))
    answers.flush()


def _exit_with(parent_pid: int) -> None:
    """Let the kernel end this process with its parent; ignore signals to the worker's group."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent exited before the call
        sys.exit()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _limit_memory(memory_bytes: int) -> None:
    """Limit the memory, and make this the first process that the kernel kills for memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump with a picture's memory
    # Without the file, or the right to write it, the kernel chooses by itself.
    with contextlib.suppress(OSError), open(_OOM_SCORE_PATH, "w", encoding="ascii") as score:
        score.write(_MAX_OOM_SCORE)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""The answers of the isolated decoder's process, which a picture may have taken over."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np

from clipfleet.workers.images.isolated_decoder import _DecoderLostError, _Process
from tests.fuzz.target import Make, Target, rows

_RESOLUTION = 2
_PIXELS = bytes(4 * 3 * _RESOLUTION**2)


class _Ended:
    """A process that has ended."""

    returncode = 1

    def wait(self, _: float) -> int:
        return 1


def decoder(folder: Path) -> Target:
    """An answer of the decoder's."""

    def run(data: bytes) -> None:
        process: Any = _Process.__new__(_Process)
        process._socket, theirs = socket.socketpair()
        process._process = _Ended()
        process._answers = process._socket.makefile("rb")
        pixels = np.zeros((3, _RESOLUTION, _RESOLUTION), np.float32)
        try:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
            with rows():
                width, height = process.decode_into(b"picture", "a", pixels, 1.0)
                assert 0 < min(width, height) <= max(width, height) < 1 << 31  # int32 in parts
        except _DecoderLostError as lost:
            str(lost).encode()
        finally:
            for end in (process._answers, process._socket, theirs):
                end.close()

    right = json.dumps({"size": [3, 4]}).encode() + b"\n" + _PIXELS
    wrong = json.dumps({"error": "decode_failed", "message": "\ud800"}).encode() + b"\n"
    large = b'{"size": [1e400, 99999999999]}\n' + _PIXELS
    return Target(run=run, seeds=(right, wrong, large, right[:-1], b"[]\n", b"[" * 5000 + b"\n"))


PROCESS_TARGETS: dict[str, Make] = {"decoder": decoder}

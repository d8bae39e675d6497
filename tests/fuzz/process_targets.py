"""The answers of a decoder's process, which a picture may have taken over."""

from __future__ import annotations

import json
import socket
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from clipfleet.errors import ItemError
from clipfleet.workers.images.decoder import Decoder, DecoderLostError, Picture, Request
from clipfleet.workers.images.region import Layout, Region
from tests.fuzz.target import Make, Target, rows

_RESOLUTION = 2
_REQUESTS = 4
_INPUTS = Layout(resolution=_RESOLUTION, slots=_REQUESTS, ring_bytes=0)
_OWN_SIZE = Layout(resolution=_RESOLUTION, slots=_REQUESTS, ring_bytes=1024)
_FILES = Layout(resolution=_RESOLUTION, slots=_REQUESTS, ring_bytes=1024, jpeg_files=True)


class _Ended:
    """A process that has ended."""

    def wait(self, _: float) -> int:
        return 1


def decoder_without_process(layout: Layout) -> tuple[Any, socket.socket]:
    """Return a decoder without a process, and the process's end of the socket."""
    decoder: Any = Decoder.__new__(Decoder)
    decoder.socket, theirs = socket.socketpair()
    decoder._process = _Ended()
    decoder._layout = layout
    decoder.region = Region(layout)
    decoder.region.close_file()
    decoder.started = False
    decoder.requests = deque(Request(number=n, uri="a") for n in range(_REQUESTS))
    decoder._requested_bytes = decoder._freed = 0
    decoder._held = deque()
    decoder._received = b""
    decoder._work_ns = (0, 0)
    return decoder, theirs


def _use(picture: Picture) -> None:
    """Read the pixels as engines do."""
    assert 0 < min(picture.size) <= max(picture.size) < 1 << 31  # int32 in parts
    layout = picture._decoder.region.layout
    if picture.file_bytes:
        assert layout.jpeg_files
        assert picture.file.shape == (picture.file_bytes,)
        picture.free()
        return
    shape = (picture.height, picture.width, 3) if layout.has_ring else (3, _RESOLUTION, _RESOLUTION)
    pixels = picture.pixels
    assert pixels.shape == shape
    assert picture.address == pixels.ctypes.data
    first = picture._decoder.region.address
    assert first <= picture.address <= first + layout.size_bytes - pixels.nbytes
    np.array(pixels)
    picture.free()


def decoder(folder: Path) -> Target:
    """The answers of a decoder."""

    def run(data: bytes) -> None:
        for layout in (_INPUTS, _OWN_SIZE, _FILES):
            decoder, theirs = decoder_without_process(layout)
            try:
                theirs.sendall(data)
                theirs.shutdown(socket.SHUT_WR)
                # As its process might, at any moment.
                decoder.region.array(0, (8,), "uint8")[:] = 255
                while True:
                    for _, answer in decoder.answers():
                        with rows():
                            if isinstance(answer, ItemError):
                                raise answer
                        if isinstance(answer, Picture):
                            _use(answer)
            except DecoderLostError as lost:
                str(lost).encode()
            finally:
                decoder.socket.close()
                theirs.close()

    def lines(*answers: object) -> bytes:
        return b"ready\n" + b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)

    known = [100, 1_700_000_000_000_000_000, "ab" * 32]
    right = lines(
        [64, 2, 2, 3, 4, 0, 3, known], ["decode_failed", "\ud800"], ["", "too many open files"]
    )
    wrong = lines([64.5, 2, 2, 3, 4, 0, 0, known], [True, 2, 2, 3, 4, 0, 0, known])
    large = b'ready\n[1e400, 1, 1, 1, 99999999999, 0, 0, [1, 1, ""]]\n'
    outside = lines([128, 2, 2, 3, 4, 0, 0, known], [1085, 2, 2, 1, 1, 0, 0, known])
    odd = lines(
        [64, 1, 1, 1, 1, 0, 4, known],
        [64, 1, 1, 1, 1, 0, 0, [1, -1, ""]],
        [256, 1, 256, 1, 1, 0, 0, known],
        [64, 2, 2, 2, 2, 2],
    )
    deep = b"ready\n" + b"[" * 5000 + b"\n"
    file = lines([64, 2, 2, 2, 2, 9, 0, known], [128, 2, 2, 2, 2, 1 << 40, 0, known])
    seeds = (right, file, wrong, large, outside, odd, right[:-1], b"[]\n{}\n", deep, b"x" * 70000)
    return Target(run=run, seeds=seeds)


PROCESS_TARGETS: dict[str, Make] = {"decoder": decoder}

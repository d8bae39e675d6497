"""A decoder: a process that reads and decodes one picture after another.

`decoders` starts it. Requests and answers are lines of JSON on its standard input, a socket. A
request names a file, or comes with an open file that has a picture's bytes. The decoder's region of
shared memory gets the pixels, or the JPEG file as it is if the GPU decodes it. If a picture ends
the process, that costs the picture one attempt.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

import numpy as np
from PIL import Image

from clipfleet.errors import ItemError, StorageError
from clipfleet.images import PictureRules
from clipfleet.workers.images.decode import (
    ImageLimits,
    configure_pillow,
    load_by_rules,
    open_image,
)
from clipfleet.workers.images.jpeg import decode_jpeg_into, gpu_may_decode, may_be_taken
from clipfleet.workers.images.preprocess import preprocess_into, resized_rgb
from clipfleet.workers.images.read import FileBytes, read_file
from clipfleet.workers.images.region import MAX_OWN_SIDE, Layout, Region, Room

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_PATH = "/proc/self/oom_score_adj"
_MAX_OOM_SCORE = "1000"
_RECEIVED_BYTES = 1 << 16
# Modes of 8 bits a channel without alpha or palette. Pillow resizes each channel by itself, so a
# grey picture may become RGB before its resize.
_OWN_SIZE_MODES = frozenset({"RGB", "L"})


def main(parent_pid: int, region_file: int, options: str) -> None:
    """Answer requests until the other end closes the socket or exits."""
    given = json.loads(options)
    _exit_with(parent_pid)
    limits = ImageLimits(
        **{**given["limits"], "input_roots": tuple(given["limits"]["input_roots"])}
    )
    region = Region(Layout(**given["layout"]), region_file)
    region.close_file()
    _limit_memory(given["memory_bytes"] + region.layout.size_bytes)
    configure_pillow(limits)
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        connection.sendall(b"ready\n")
        _serve(connection, limits, region, Room(region))


def _serve(connection: socket.socket, limits: ImageLimits, region: Region, room: Room) -> None:
    files: list[int] = []
    buffer = b""
    while True:
        received, new_files, _, _ = socket.recv_fds(connection, _RECEIVED_BYTES, 64)
        if not received:
            return
        files += new_files
        *lines, buffer = (buffer + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            file = files.pop(0) if "bytes" in request else None
            begin_ns = time.monotonic_ns()
            answer = _answer(request, file, limits, region, room)
            region.add_work(all_ns=time.monotonic_ns() - begin_ns)
            connection.sendall(json.dumps(answer, separators=(",", ":")).encode() + b"\n")


def _answer(
    request: dict[str, Any], file: int | None, limits: ImageLimits, region: Region, room: Room
) -> list[Any]:
    """Return what `Decoder` reads as a picture, or [class, message].

    A picture is [offset, width and height as placed, width and height, bytes of the JPEG file that
    the GPU decodes (0: none), value of the remark, fingerprint].
    """
    try:
        uri = request["uri"]
        data, mtime_ns = _data(uri, file, request.get("mtime_ns", 0), limits, region)
        image = open_image(data, uri, limits.max_pixels)
        placed = _placed_jpeg(image, data, region, room, exact="exact" in request)
        if placed is None:
            rules = PictureRules(**request.get("rules", {}))
            image, remark = load_by_rules(image, data, uri, limits.max_pixels, rules)
            placed = [*_placed(image, region, room), *image.size, 0, remark.value]
    except ItemError as error:
        return [error.code, str(error)]
    except StorageError as error:
        return ["", str(error)]
    sha256 = hashlib.sha256(data).hexdigest() if "sha256" in request else ""
    # The fields of `Fingerprint`, whose module loads pydantic: half of what a decoder would load.
    return [*placed, (len(data), mtime_ns, sha256)]


def _data(
    uri: str, file: int | None, mtime_ns: int, limits: ImageLimits, region: Region
) -> FileBytes:
    """Return the bytes of a picture: of the open file that came with its time, or of its own."""
    begin_ns = time.monotonic_ns()
    try:
        if file is None:
            return read_file(uri, limits.max_bytes, limits.input_roots, attempts=limits.attempts)
        with open(file, "rb") as opened:
            return FileBytes(opened.read(), mtime_ns)
    finally:
        region.add_work(read_ns=time.monotonic_ns() - begin_ns)


def _placed_jpeg(
    image: Image.Image, data: bytes, region: Region, room: Room, *, exact: bool
) -> list[int] | None:
    """Write a JPEG file, or its pixels, to the ring; return the answer, None if it does not go."""
    width, height = image.size
    if not region.layout.has_ring or max(width, height) > MAX_OWN_SIDE or not may_be_taken(image):
        return None
    if region.layout.jpeg_files and not exact and gpu_may_decode(image, data):
        start = room.ring(len(data))
        if start is not None:
            region.array(start, (len(data),), "uint8")[:] = np.frombuffer(data, np.uint8)
            room.take()
            return [start, width, height, width, height, len(data), 0]
    start = room.ring(3 * width * height)
    if start is None or not decode_jpeg_into(
        data, region.array(start, (height, width, 3), "uint8")
    ):
        return None
    room.take()
    return [start, width, height, width, height, 0, 0]


def _placed(image: Image.Image, region: Region, room: Room) -> tuple[int, int, int]:
    """Write a picture's pixels to the region; return their offset, width and height."""
    side = region.layout.resolution
    if not region.layout.has_ring:
        start = room.slot()
        preprocess_into(image, region.array(start, (3, side, side), "float32"))
        room.take()
        return start, side, side
    if image.mode in _OWN_SIZE_MODES and max(image.size) <= MAX_OWN_SIDE:
        found = room.ring(3 * image.width * image.height)
        if found is not None:
            rgb = np.asarray(image.convert("RGB"))
            region.array(found, rgb.shape, "uint8")[:] = rgb
            room.take()
            return found, image.width, image.height
    # No room for its own size, too long, or a mode that Pillow resizes in its own way.
    small = np.asarray(resized_rgb(image, side, side))
    start = room.slot()
    region.array(start, small.shape, "uint8")[:] = small
    room.take()
    return start, side, side


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
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

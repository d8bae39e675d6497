"""JPEG files that lack their end: is a pixel missing, too?

libjpeg fills up what a file lacks, with grey or with what comes next. So a file is decoded with
several endings. Where all give the same pixels, no pixel depends on what is missing: the file lacks
its end mark only.
"""

from __future__ import annotations

import io
import random
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.workers.images.formats import DECODER_ERRORS

_END = b"\xff\xd9"
# Any bytes that are no mark, enough for the blocks that a decoder takes at once: ten, of which some
# may lie outside the picture.
_FILLING = random.Random(0).randbytes(1 << 12).replace(b"\xff", b"\x00")
_COEFFICIENTS = 64  # of a block
_START_OF_SCAN = 0xDA
_RESTARTS = range(0xD0, 0xD8)
_WITHOUT_LENGTH = {0x00, 0x01, 0xD8, *_RESTARTS}  # marks; 0x00 says that the byte before is none


def with_end(data: bytes) -> bytes | None:
    """Return a JPEG file with the end that it lacks; None if it lacks pixels, or is damaged."""
    data = data.rstrip(b"\xff")  # half of the end mark
    try:
        restart = _next_restart(data)
        if restart is None:
            return None
        pixels = _pixels(data + _END)
        for filling in (_FILLING, restart + _FILLING):
            if not np.array_equal(pixels, _pixels(data + filling + _END)):
                return None
    except (*DECODER_ERRORS, MemoryError):
        return None
    return data + _END


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image)


def _next_restart(data: bytes) -> bytes | None:
    """Return the restart mark that may follow a file's data; None if it lacks a scan, or no end.

    A progressive file has several scans, and decodes without the last ones, less sharp. So the
    scans must have all coefficients of all components.

    Raises:
        IndexError, ValueError, struct.error: A segment is cut off.
    """
    components: set[int] = set()
    found: dict[int, set[int]] = {}  # component → coefficients with all their bits
    restarts = 0  # in the last scan
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        mark = data[at + 1]
        if mark == _END[1]:  # the file has its end: what it lacks is elsewhere
            return None
        if mark == 0xFF:  # it fills up
            at += 1
            continue
        if mark in _WITHOUT_LENGTH:
            restarts += mark in _RESTARTS
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at + 4 : at + 2 + length]
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # start of the frame
            components = {segment[6 + 3 * n] for n in range(segment[5])}
        elif mark == _START_OF_SCAN:
            restarts = 0
            count = segment[0]
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            if bits & 0x0F == 0:  # the lowest bit comes with this scan
                for n in range(count):
                    found.setdefault(segment[1 + 2 * n], set()).update(range(first, last + 1))
        at += 2 + length
    whole = components and all(len(found.get(n, ())) == _COEFFICIENTS for n in components)
    return bytes((0xFF, _RESTARTS[restarts % len(_RESTARTS)])) if whole else None

"""The size of a JPEG XL picture, read before it is decoded: its plug-in decodes as it opens.

Bits are read from the lowest of each byte, as ISO/IEC 18181-1 (SizeHeader) and 18181-2 (boxes) say.
"""

from __future__ import annotations

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"

_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
_SIDE_BITS = (9, 13, 18, 30)
_HEADER_BYTES = 16  # a size takes up to 68 bits


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) in pixels of a JPEG XL picture; None for other bytes."""
    start = _codestream(data)
    if start is None or data[start : start + 2] != CODESTREAM:
        return None
    bits = _Bits(data[start + 2 : start + 2 + _HEADER_BYTES])
    is_small = bits.take(1)
    height = _side(bits, is_small=bool(is_small))
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, is_small=bool(is_small)), height
    numerator, denominator = _RATIOS[ratio]
    return height * numerator // denominator, height


def _side(bits: _Bits, *, is_small: bool) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.take(_SIDE_BITS[bits.take(2)]) + 1


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value


def _codestream(data: bytes) -> int | None:
    """Return where the codestream begins: at once, or in the first box that has a part of it."""
    if not data.startswith(CONTAINER):
        return 0
    at = len(CONTAINER)
    while at + 8 <= len(data):
        size, kind, header = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind == b"jxlc":
            return at + header
        if kind == b"jxlp":
            return at + header + 4  # after the part's number
        if size < header:  # 0: the last box
            return None
        at += size
    return None

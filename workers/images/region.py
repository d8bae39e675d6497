"""A decoder's region: memory in which a decoder process leaves pictures for the engine's process.

A region has counters, slots, and a ring. A slot holds a picture at the model's resolution. The
ring holds pictures in their own size, which a GPU resizes, or JPEG files, which a GPU decodes. The
decoder takes room in the order of its answers, and the engine's process frees it in the same order,
by adding to a counter. So no message is needed to free a picture.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COUNTER = struct.Struct("=q")  # pictures that the engine's process has freed
_WORK = struct.Struct("=qq")  # ns that the decoder spent: in reading, and in all
_HEADER_BYTES = 64  # both, and what aligns the pictures
_ALIGNMENT = 64  # bytes
MAX_OWN_SIDE = 1 << 14  # pixels: a GPU's weights for a longer side take megabytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The sizes of a region: `slots` slots of one picture each, and `ring_bytes` behind them.

    Without a ring, a slot has the engine's inputs, float32 (3, S, S). With a ring, it has a
    picture, uint8 (S, S, 3). With `jpeg_files`, the engine's GPU decodes JPEG files.
    """

    resolution: int
    slots: int
    ring_bytes: int
    jpeg_files: bool = False

    @property
    def has_ring(self) -> bool:
        return self.ring_bytes > 0

    @property
    def slot_bytes(self) -> int:
        values = 3 * self.resolution**2
        return _aligned(values if self.has_ring else 4 * values)

    @property
    def ring_start(self) -> int:
        """The offset of the ring in the region."""
        return _HEADER_BYTES + self.slots * self.slot_bytes

    @property
    def size_bytes(self) -> int:
        return self.ring_start + self.ring_bytes

    def slot(self, number: int) -> int:
        """Return the offset of the slot for a decoder's picture 0, 1, …"""
        return _HEADER_BYTES + number % self.slots * self.slot_bytes


class Region:
    """The memory of one decoder, as both processes map it."""

    def __init__(self, layout: Layout, file: int | None = None) -> None:
        """Map a region: that of an open file, or a new one."""
        self.layout = layout
        self.file = os.memfd_create("clipfleet-decoder") if file is None else file
        if file is None:
            os.ftruncate(self.file, layout.size_bytes)
        self._memory = mmap.mmap(self.file, layout.size_bytes)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.address: int = self._bytes.__array_interface__["data"][0]  # in this process

    @property
    def freed(self) -> int:
        """How many pictures the engine's process has freed."""
        return int(_COUNTER.unpack_from(self._memory)[0])

    @freed.setter
    def freed(self, count: int) -> None:
        _COUNTER.pack_into(self._memory, 0, count)

    @property
    def work_ns(self) -> tuple[int, int]:
        """The time that the decoder spent so far: in reading, and in all, with reading."""
        read_ns, all_ns = _WORK.unpack_from(self._memory, _COUNTER.size)
        return int(read_ns), int(all_ns)

    def add_work(self, *, read_ns: int = 0, all_ns: int = 0) -> None:
        """Add to `work_ns`; the decoder does."""
        read_before, all_before = self.work_ns
        _WORK.pack_into(self._memory, _COUNTER.size, read_before + read_ns, all_before + all_ns)

    def check(self, start: int, size_bytes: int) -> None:
        """Check that bytes at an offset lie in the region.

        Raises:
            ValueError: They do not.
        """
        if not _HEADER_BYTES <= start <= self.layout.size_bytes - size_bytes:
            raise ValueError(f"{size_bytes} bytes at {start} are not in the region")

    def array(self, start: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return a view of the region at an offset."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        view: NDArray[Any] = self._bytes[start : start + size_bytes].view(dtype).reshape(shape)
        return view

    def close_file(self) -> None:
        """Close the file, when the decoder has it; the memory stays."""
        if self.file >= 0:
            os.close(self.file)
        self.file = -1


class Room:
    """The decoder's side of a region: where its next picture goes.

    `slot` and `ring` find room; `take` takes it, when the picture is there.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._layout = region.layout
        self._taken = 0  # pictures
        self._freed = 0  # pictures that are not in `_ends` any more
        self._ends: deque[tuple[int, int]] = deque()  # start and end in the ring; (0, 0): a slot
        self._head = 0  # the offset in the ring at which the next picture may start
        self._found = (0, 0)

    def slot(self) -> int:
        """Return the offset of the next slot; the engine's process keeps one free."""
        self._found = (0, 0)
        return self._layout.slot(self._taken)

    def ring(self, size_bytes: int) -> int | None:
        """Return the offset of room in the ring; None if there is too little."""
        self._forget_freed()
        size_bytes, length = _aligned(size_bytes), self._layout.ring_bytes
        used = next((start for start, end in self._ends if end), None)  # the oldest
        if used is None:
            start, limit = 0, length
        elif self._head <= used:
            start, limit = self._head, used
        elif self._head + size_bytes <= length:
            start, limit = self._head, length
        else:
            start, limit = 0, used
        # The head never meets the oldest picture: that would mean an empty ring.
        if start + size_bytes > limit or (limit == used and start + size_bytes == limit):
            return None
        self._found = (start, start + size_bytes)
        return self._layout.ring_start + start

    def take(self) -> None:
        """Take the room that was found last."""
        self._forget_freed()
        self._taken += 1
        self._ends.append(self._found)
        self._head = self._found[1] or self._head

    def _forget_freed(self) -> None:
        freed = self._region.freed
        while self._freed < freed and self._ends:
            self._ends.popleft()
            self._freed += 1


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT

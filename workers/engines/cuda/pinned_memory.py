"""Arrays in pinned memory, which the GPU reads without a copy on the host."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.cuda import runtime as cuda

_MAX_FREE = 4  # buffers kept for the next array: to page-lock memory is slow


class PinnedArrays:
    """Creates arrays, and reuses the memory of arrays without a reference.

    One caller of `empty` at a time; arrays may be dropped in any thread, and after `close`.
    """

    def __init__(self) -> None:
        self._free: list[cuda.PinnedBuffer] = []
        self._used: dict[int, cuda.PinnedBuffer] = {}  # by address
        self._dropped: deque[int] = deque()  # filled by finalizers, which may run at any moment
        self._closed = False

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an uninitialised array.

        Raises:
            EngineError: No more memory can be page-locked.
        """
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        self._take_back()
        buffer = self._fitting(size_bytes) or cuda.PinnedBuffer((size_bytes,), "uint8")
        self._used[buffer.handle] = buffer
        # Each view of the array refers to `memory`, which no other array uses.
        memory = (ctypes.c_uint8 * max(1, size_bytes)).from_address(buffer.handle)
        weakref.finalize(memory, self._drop, buffer.handle).atexit = False
        array: Array = np.ctypeslib.as_array(memory)[:size_bytes].view(dtype).reshape(shape)
        return array

    def _fitting(self, size_bytes: int) -> cuda.PinnedBuffer | None:
        """Take the smallest free buffer that is large enough, and not far too large."""
        fits = [b for b in self._free if size_bytes <= b.size_bytes <= 4 * size_bytes]
        best = min(fits, key=lambda buffer: buffer.size_bytes, default=None)
        if best is not None:
            self._free.remove(best)
        return best

    def contains(self, array: Array) -> bool:
        """Return whether an array is contiguous and lies in this memory."""
        if not self._used or not array.flags.c_contiguous:
            return False
        start = address_of(array)
        return any(
            first <= start and start + array.nbytes <= first + buffer.size_bytes
            for first, buffer in list(self._used.items())
        )

    def _drop(self, address: int) -> None:
        self._dropped.append(address)
        if self._closed:
            self._take_back()

    def _take_back(self) -> None:
        """Free the buffers of dropped arrays; after `close` several threads may be in here."""
        with suppress(IndexError):  # another thread may take the last one first
            while self._dropped:
                self._free.append(self._used.pop(self._dropped.popleft()))
        with suppress(IndexError):
            while len(self._free) > (0 if self._closed else _MAX_FREE):
                self._free.pop(0).close()

    def close(self) -> None:
        """Free the memory that no array uses; the rest is freed with its array."""
        self._closed = True
        self._take_back()


def address_of(array: Array) -> int:
    """Return the address of an array's first element."""
    address: int = array.__array_interface__["data"][0]
    return address

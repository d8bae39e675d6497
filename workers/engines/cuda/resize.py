"""Resizes pictures on the GPU as Pillow does, and normalises them, equal to the bit."""

from __future__ import annotations

import ctypes
import importlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from clipfleet.errors import EngineError
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.images.bicubic import is_y_first, weights
from clipfleet.workers.images.preprocess import preprocess_batch

_PTX = Path(__file__).with_name("resize.ptx")
_THREADS = 256  # of a block
_MAX_TABLES = 4096  # sizes whose weights stay on the GPU: 20 to 100 kB each
_ALIGNMENT = 256
# Smaller and larger than a model's inputs, wide, tall, and so tall that every Pillow begins with y.
_CHECKED_SIZES = ((500, 375), (300, 400), (1, 1), (40, 60), (3, 700), (900, 4))
_FIELDS = 9  # of `Picture` in resize.cu
_ARGUMENTS = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

Table = tuple[cuda.DeviceBuffer, int]  # windows and weights on the GPU, the length of the windows


class Resizer:
    """The kernels for one resolution, and the weights of each size that occurred."""

    def __init__(self, resolution: int) -> None:
        """Load the kernels.

        Raises:
            EngineError: The driver does not take them.
        """
        self.resolution = resolution
        self._tables: OrderedDict[int, Table] = OrderedDict()
        cuda.synchronize()  # the driver's calls need the context that the runtime makes
        self._module = _driver_call("cuModuleLoadData", _PTX.read_bytes() + b"\0")
        self._first = _driver_call("cuModuleGetFunction", self._module, b"first_pass")
        self._second = _driver_call("cuModuleGetFunction", self._module, b"second_pass")
        self._uploads = cuda.Stream()

    def table(self, size: int) -> Table:
        """Return the weights for a width or a height."""
        found = self._tables.get(size)
        if found is not None:
            self._tables.move_to_end(size)
            return found
        windows, values = weights(size, self.resolution)
        content = np.concatenate([windows.ravel(), values.ravel()])
        with ExitStack() as stack:
            buffer = stack.enter_context(cuda.DeviceBuffer(content.nbytes))
            source, size_bytes = content.ctypes.data, content.nbytes
            cuda.copy_async(buffer.handle, source, size_bytes, "HostToDevice", self._uploads)
            # cudaMemcpy may return before the GPU has the bytes; the kernels' streams wait for no
            # other stream.
            self._uploads.synchronize()
            stack.pop_all()
        table = self._tables[size] = (buffer, values.shape[1])
        if len(self._tables) > _MAX_TABLES:
            cuda.synchronize()  # a batch in flight may read it
            self._tables.popitem(last=False)[1][0].close()
        return table

    def launch(
        self, descriptions: int, count: int, longest: int, inputs: int, stream: cuda.Stream
    ) -> None:
        """Put the kernels for `count` pictures into a stream.

        `descriptions` is the GPU's address of their rows, `inputs` that of float32 (n, 3, S, S).
        `longest` is the largest number of pixels that a first pass makes.
        """
        side = self.resolution
        self._launch(self._first, longest, count, (descriptions, side, None), stream)
        self._launch(self._second, side * side, count, (descriptions, side, inputs), stream)

    def _launch(
        self, kernel: Any, pixels: int, count: int, given: tuple[Any, ...], stream: cuda.Stream
    ) -> None:
        taken = 2 if given[-1] is None else 3
        arguments = (given[:taken], _ARGUMENTS[:taken])
        blocks = -(-pixels // _THREADS)
        _driver_call(
            "cuLaunchKernel",
            kernel,
            *(blocks, count, 1),
            *(_THREADS, 1, 1),
            *(0, stream.address),
            *(arguments, 0),
        )

    def close(self) -> None:
        """Free the weights and the kernels; never raises, as `Handle.close`."""
        while self._tables:
            self._tables.popitem()[1][0].close()
        self._uploads.close()
        _driver().cuModuleUnload(self._module)


def resizes_exactly(resolution: int) -> bool:
    """Return whether the GPU's pixels are equal to this Pillow's, for pictures of several shapes.

    A new version of Pillow may resize in another order.
    """
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in _CHECKED_SIZES
    ]
    with ExitStack() as stack:
        resizer = stack.enter_context(closing(Resizer(resolution)))
        stream = stack.enter_context(cuda.Stream())
        buffer = stack.enter_context(closing(PictureBuffer(resizer, len(images))))
        shape = (len(images), 3, resolution, resolution)
        made = stack.enter_context(cuda.PinnedBuffer(shape, "float32"))
        inputs = stack.enter_context(cuda.DeviceBuffer(made.size_bytes))
        pictures = [np.asarray(image) for image in images]
        given = [
            PixelsAt(width=one.shape[1], height=one.shape[0], address=one.ctypes.data)
            for one in pictures
        ]
        buffer.copy(given, inputs.handle, stream)
        cuda.copy_async(made.handle, inputs.handle, made.size_bytes, "DeviceToHost", stream)
        stream.synchronize()
        return bool(np.array_equal(made.array, preprocess_batch(images, resolution)))


class Pixels(Protocol):
    """What is resized: uint8 (height, width, 3) at an address of this process, or of the GPU."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def on_gpu(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class PixelsAt:
    """Pixels at an address; `owner` has the memory."""

    width: int
    height: int
    address: int
    on_gpu: bool = False
    owner: Any = None


class PictureBuffer:
    """Memory on the GPU for the pictures of one batch; it grows to the largest batch."""

    def __init__(self, resizer: Resizer, count: int) -> None:
        """Allocate memory for batches of up to `count` pictures."""
        self._resizer = resizer
        with ExitStack() as stack:
            self._rows = stack.enter_context(cuda.PinnedBuffer((count, _FIELDS), "int64"))
            self._device_rows = stack.enter_context(cuda.DeviceBuffer(self._rows.size_bytes))
            self._closing = stack.pop_all()
        self._memory = cuda.DeviceBuffer(0)
        cudart = cuda.runtime()
        self._copy_async = partial(_copy_async, cudart.cudaMemcpyAsync, cudart.cudaMemcpyKind)

    def copy(self, pictures: Sequence[Pixels], inputs: int, stream: cuda.Stream) -> None:
        """Put copies, resizes and normalisations of pictures into a stream.

        The inputs go to GPU address `inputs`. The pictures must stay until the stream is done.
        """
        side = self._resizer.resolution
        places, end, longest = [], 0, 0
        for picture in pictures:
            y_first = is_y_first(picture.width, picture.height, side)
            made = side * (picture.width if y_first else picture.height)
            size_bytes = 0 if picture.on_gpu else 3 * picture.width * picture.height
            pixels, buffer = end, end + _aligned(size_bytes)
            places.append((pixels, buffer, y_first))
            end = buffer + _aligned(3 * made)
            longest = max(longest, made)
        self._reserve(end, stream)
        start = self._memory.handle
        for row, picture, (pixels, buffer, y_first) in zip(
            self._rows.array, pictures, places, strict=False
        ):
            source = picture.address
            if not picture.on_gpu:
                source = start + pixels
                size_bytes = 3 * picture.width * picture.height
                self._copy_async(source, picture.address, size_bytes, stream)
            x_table, x_length = self._resizer.table(picture.width)
            y_table, y_length = self._resizer.table(picture.height)
            row[:] = (
                *(source, start + buffer, x_table.handle, y_table.handle),
                *(x_length, y_length, picture.width, picture.height, y_first),
            )
        rows, size_bytes = self._device_rows.handle, len(pictures) * _FIELDS * 8
        self._copy_async(rows, self._rows.handle, size_bytes, stream)
        self._resizer.launch(rows, len(pictures), longest, inputs, stream)

    def _reserve(self, size_bytes: int, stream: cuda.Stream) -> None:
        if self._memory.handle is None or size_bytes > self._memory.size_bytes:
            stream.synchronize()
            self._memory.close()
            self._memory = cuda.DeviceBuffer(size_bytes + size_bytes // 4)

    def close(self) -> None:
        """Free the memory."""
        self._memory.close()
        self._closing.close()


def _copy_async(
    copy: Any, kinds: Any, target: int, source: int, size_bytes: int, stream: cuda.Stream
) -> None:
    (error,) = copy(target, source, size_bytes, kinds.cudaMemcpyHostToDevice, stream.handle)
    if error:
        raise cuda.failure(error, "cudaMemcpyAsync")


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _driver_call(name: str, *arguments: Any) -> Any:
    error, *results = getattr(_driver(), name)(*arguments)
    if error:
        raise EngineError(f"{name} failed with {error.name}")
    return results[0] if results else None


def _driver() -> Any:
    return importlib.import_module("cuda.bindings.driver")

"""nvImageCodec as its Python package offers it, on the fake GPU: decoding waits in the stream.

`test_nvimgcodec.py` compares its parameters with the real package's. Pixels are Pillow's, unless
`Machine` says otherwise. An image's memory is overwritten when the image is dropped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from tests.unit.workers.fake_cuda import Cuda


class BackendKind(Enum):
    CPU_ONLY = 1
    GPU_ONLY = 2
    HYBRID_CPU_GPU = 3
    HW_GPU_ONLY = 4


class ColorSpec(Enum):
    SRGB = 1


class Backend:
    def __init__(self, backend_kind: BackendKind) -> None:
        self.backend_kind = backend_kind


class DecodeParams:
    def __init__(self, *, apply_exif_orientation: bool = True, color_spec: Any = None) -> None:
        self.apply_exif_orientation = apply_exif_orientation
        self.color_spec = color_spec


class CodeStream:
    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array  # not copied


class Image:
    """An image, whose memory the real library frees in the stream of its decoding."""

    def __init__(self, pixels: NDArray[np.uint8], machine: Machine, stream: int) -> None:
        self.pixels = pixels
        self._machine = machine
        self._stream = stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.pixels.__array_interface__, "stream": 1}

    def __del__(self) -> None:
        self.pixels[:] = 77
        self._machine.freed_late += self._stream not in self._machine.cuda.held


class Machine:
    """What the decoder does: `changes` alters pixels, `takes` says whether it takes a file."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.changes: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda pixels: pixels
        self.takes: Callable[[bytes], bool] = lambda data: True
        self.error: Exception | None = None
        self.has_nvjpeg = True
        self.batches: list[int] = []
        self.open = 0  # decoders
        self.freed_late = 0  # images whose stream was destroyed before: the real library crashes

    def module(self) -> ModuleType:
        """Return a module that stands for the package."""
        made: Any = ModuleType("nvidia.nvimgcodec")
        for kind in (BackendKind, ColorSpec, Backend, DecodeParams, CodeStream):
            setattr(made, kind.__name__, kind)
        made.Decoder = lambda **options: Decoder(self, **options)
        return made  # type: ignore[no-any-return]


class Decoder:
    def __init__(
        self,
        machine: Machine,
        *,
        max_num_cpu_threads: int = 0,
        backends: Sequence[Backend] | None = None,
        options: str = "",
    ) -> None:
        if not machine.has_nvjpeg:
            raise RuntimeError("Internal error - Could not create decoder. Code: 7")
        assert options == ":fancy_upsampling=1"
        assert max_num_cpu_threads > 0
        assert BackendKind.CPU_ONLY not in {one.backend_kind for one in backends or ()}
        machine.open += 1
        self._machine = machine
        self._streams: set[int] = set()

    def decode(
        self, srcs: list[CodeStream], *, params: DecodeParams, cuda_stream: int
    ) -> list[Image | None]:
        assert not params.apply_exif_orientation
        machine = self._machine
        self._streams.add(cuda_stream)
        machine.batches.append(len(srcs))
        if machine.error is not None:
            raise machine.error
        return [self._decoded(one.array, cuda_stream) for one in srcs]

    def _decoded(self, array: NDArray[np.uint8], stream: int) -> Image | None:
        if not self._machine.takes(array.tobytes()):
            return None
        found = self._machine.changes(self._pixels(array))
        image = Image(np.zeros_like(found), self._machine, stream)
        pixels = image.pixels

        def decode() -> None:  # only now: the file must still be there
            pixels[:] = self._machine.changes(self._pixels(array))

        self._machine.cuda.stream(stream).put(decode)
        return image

    @staticmethod
    def _pixels(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.array(PillowImage.open(io.BytesIO(array.tobytes())).convert("RGB"))

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        self._machine.open -= 1
        self._machine.freed_late += len(self._streams - self._machine.cuda.held.keys())

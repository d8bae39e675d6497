"""JPEG files become pixels on the GPU, with nvImageCodec, as close to Pillow's as it can.

Each file is decoded by the GPU or by nobody: nvImageCodec's own CPU decoders are not used.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DependencyError
from clipfleet.settings import cores
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.resize import Pixels, PixelsAt

_MODULE = "nvidia.nvimgcodec"
_VERBOSITY_VARIABLE = "PYNVIMGCODEC_VERBOSITY"
_SILENT = "0"  # it would print a line for each file that it does not take
_OPTIONS = ":fancy_upsampling=1"  # smooth upsampling of colour, as Pillow's
_MAX_THREADS = 4  # of nvImageCodec; with 16 it made fewer pictures
_BLACK = np.zeros((1, 1, 3), np.uint8)

log = logging.getLogger(__name__)


class Source(Pixels, Protocol):
    """A picture: pixels in this process's memory, or a JPEG file if `file_bytes` is not 0."""

    @property
    def file_bytes(self) -> int: ...
    @property
    def file(self) -> NDArray[np.uint8]: ...


# In place of a picture that the GPU did not decode.
BLANK = PixelsAt(width=1, height=1, address=_BLACK.ctypes.data, owner=_BLACK)


def load_nvimgcodec() -> ModuleType:
    """Return nvImageCodec's module.

    Raises:
        DependencyError: It is not installed, or its libraries do not load.
    """
    os.environ.setdefault(_VERBOSITY_VARIABLE, _SILENT)
    try:
        return importlib.import_module(_MODULE)
    except (ImportError, OSError) as error:
        raise _missing(str(error)) from error


def check_installed() -> None:
    """Check that nvImageCodec is installed, without a GPU.

    Raises:
        DependencyError: It is not.
    """
    package, _, _ = _MODULE.rpartition(".")
    if find_spec(package) is None or find_spec(_MODULE) is None:
        raise _missing(f"no module {_MODULE}")


def _missing(reason: str) -> DependencyError:
    return DependencyError(
        f"--decode gpu needs nvImageCodec and nvJPEG ({reason}): from a checkout, "
        "pip install '.[gpu,gpu-decode]', or leave it out (CLIPFLEET_DECODE)"
    )


class JpegDecoder(Closing):
    """nvImageCodec's decoder on the GPU of this process; a context manager."""

    def __init__(self) -> None:
        """Start the decoder.

        Raises:
            DependencyError: nvImageCodec or nvJPEG is not installed.
        """
        nvimgcodec = load_nvimgcodec()
        cuda.keep_freed_memory()  # nvImageCodec allocates the pixels of each batch so
        kinds = nvimgcodec.BackendKind
        self._code_stream = nvimgcodec.CodeStream
        self._params = nvimgcodec.DecodeParams(
            apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB
        )
        # The GPU's JPEG engines first. Beside HYBRID_CPU_GPU they were left idle (ADR 29).
        backends = [nvimgcodec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY)]
        try:
            self._decoder = nvimgcodec.Decoder(
                max_num_cpu_threads=min(_MAX_THREADS, cores()), backends=backends, options=_OPTIONS
            )
        except RuntimeError as error:  # no decoder of these kinds
            raise _missing(str(error)) from error
        self.stream = cuda.Stream()  # for those who have none that outlives the decoder

    def decode(self, pictures: Sequence[Source], stream: cuda.Stream) -> list[Pixels]:
        """Put the decoding of those pictures that are JPEG files into a stream.

        A file that the GPU does not decode, or to another size than its header's, becomes `BLANK`.
        The files must stay until the stream is done. The stream must stay until the pixels are
        dropped and the decoder is closed: nvImageCodec frees memory in a file's stream.

        Raises:
            GpuLostError: The GPU is lost.
        """
        files = [picture.file for picture in pictures if picture.file_bytes]
        images = iter(self._images(files, stream) if files else [])
        return [
            _pixels(picture, next(images)) if picture.file_bytes else picture
            for picture in pictures
        ]

    def _images(self, files: list[NDArray[np.uint8]], stream: cuda.Stream) -> list[Any]:
        """Return nvimgcodec's image of each file, or None."""
        try:
            streams = [self._code_stream(file) for file in files]
            images: list[Any] = self._decoder.decode(
                streams, params=self._params, cuda_stream=stream.address
            )
        except (RuntimeError, MemoryError) as error:  # such as too little memory for the batch
            cuda.synchronize()  # raises GpuLostError
            log.warning("the GPU decoded none of %d JPEG files: %s", len(files), error)
            return [None] * len(files)
        return images

    def close(self) -> None:
        """Free the decoder's memory."""
        self._decoder.__exit__(None, None, None)
        self.stream.close()


def _pixels(picture: Source, image: Any) -> PixelsAt:
    """Return the pixels of nvimgcodec's image of a picture."""
    if image is None:
        return BLANK
    found = image.__cuda_array_interface__
    height, width = picture.height, picture.width
    rows_are_dense = found["strides"] in (None, (3 * width, 3, 1))
    if found["shape"] != (height, width, 3) or found["typestr"] != "|u1" or not rows_are_dense:
        return BLANK
    address = found["data"][0]
    return PixelsAt(width=width, height=height, address=address, on_gpu=True, owner=image)

"""A thin layer over CUDA's runtime: errors are raised, and what is taken is given back.

It needs `cuda-bindings` and a driver, no CUDA toolkit. Each call returns its error first; those
used here have the same signatures in cuda-bindings 12.9 and 13. CUDA itself honours
CUDA_VISIBLE_DEVICES; this process uses the first device that it shows.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DependencyError, EngineError, GpuLostError
from clipfleet.workers.engines.cuda.errors import error_of

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

log = logging.getLogger(__name__)


def runtime() -> Any:
    """Return the module of CUDA's runtime calls.

    Raises:
        DependencyError: cuda-bindings is not installed.
    """
    load_kernels_lazily()
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DependencyError(
            f"TensorRT engines need cuda-bindings ({error}): from a checkout, pip install '.[gpu]'"
        ) from error


def load_kernels_lazily() -> None:
    """Have CUDA load a kernel when it is first used; to be called before CUDA's first call.

    CUDA 12.2 made it the default; before, every kernel of every library is loaded at once.
    """
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")


def call(name: str, *arguments: Any) -> Any:
    """Return what a call of CUDA's runtime returns: nothing, a value or a tuple.

    Raises:
        EngineError: It failed; GpuMemoryError and GpuLostError where that is why.
    """
    error, *results = getattr(runtime(), name)(*arguments)
    if error:
        raise failure(error, name)
    return results[0] if len(results) == 1 else tuple(results) or None


def failure(error: Any, name: str) -> EngineError:
    """Return the exception for the `cudaError_t` that the call `name` returned."""
    return error_of(error, name, described=_text(runtime().cudaGetErrorString(error)[1]))


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode(errors="replace")


def device_name() -> str:
    """Return the GPU model, such as "NVIDIA H100 80GB HBM3"."""
    return _text(call("cudaGetDeviceProperties", call("cudaGetDevice")).name)


def compute_capability() -> str:
    """Return the GPU's compute capability, such as "9.0"."""
    kinds, device = runtime().cudaDeviceAttr, call("cudaGetDevice")
    major = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMajor, device)
    minor = call("cudaDeviceGetAttribute", kinds.cudaDevAttrComputeCapabilityMinor, device)
    return f"{major}.{minor}"


def memory_info() -> tuple[int, int]:
    """Return the GPU's free and total memory, in bytes."""
    free, total = call("cudaMemGetInfo")
    return int(free), int(total)


def synchronize() -> None:
    """Wait for all of the GPU's work; a lost GPU says so here.

    Raises:
        GpuLostError: The GPU is lost.
    """
    call("cudaDeviceSynchronize")


@contextmanager
def naming_a_lost_gpu() -> Iterator[None]:
    """Raise GpuLostError for an error within that only shows that the GPU is lost."""
    try:
        yield
    except GpuLostError:
        raise
    except EngineError:
        synchronize()  # TensorRT does not say so, this does
        raise


class Held:
    """A handle of CUDA's, given back at most once; a context manager."""

    def __init__(self, handle: Any, release: str) -> None:
        self.handle = handle
        self._release = release

    def close(self) -> None:
        """Give it back. It never raises: after a lost GPU each of these calls fails too."""
        if self.handle is None:
            return
        handle, self.handle = self.handle, None
        error = getattr(runtime(), self._release)(handle)[0]
        if error:
            log.debug("%s failed: %s", self._release, error.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Held):
    """A queue of GPU work that waits for no other."""

    def __init__(self) -> None:
        flags = runtime().cudaStreamNonBlocking
        super().__init__(call("cudaStreamCreateWithFlags", flags), "cudaStreamDestroy")

    @property
    def address(self) -> int:
        """The handle as a number, as TensorRT takes it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until its work is done; other Python threads run meanwhile."""
        call("cudaStreamSynchronize", self.handle)


class Event(Held):
    """A mark in a stream. To wait for it spins on a core, or sleeps if it is `blocking`."""

    def __init__(self, *, blocking: bool) -> None:
        cudart = runtime()
        flags = cudart.cudaEventDisableTiming | (cudart.cudaEventBlockingSync if blocking else 0)
        super().__init__(call("cudaEventCreateWithFlags", flags), "cudaEventDestroy")


class DeviceBuffer(Held):
    """Memory on the GPU; `handle` is its address."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(int(call("cudaMalloc", max(1, size_bytes))), "cudaFree")


class PinnedBuffer(Held):
    """Memory of the host that the GPU copies from and to by itself; `handle` is its address.

    `array` is its NumPy view, zeros at first; do not use it after `close`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        size = max(1, self.size_bytes)
        flags = runtime().cudaHostAllocDefault
        super().__init__(int(call("cudaHostAlloc", size, flags)), "cudaFreeHost")
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.handle))
        self.array: NDArray[Any] = view[: self.size_bytes].view(dtype).reshape(shape)
        self.array.fill(0)


def copy_async(target: int, source: int, size_bytes: int, kind: str, stream: Stream) -> None:
    """Put a copy into a stream; `kind` is "HostToDevice", "DeviceToHost" or "DeviceToDevice"."""
    direction = getattr(runtime().cudaMemcpyKind, f"cudaMemcpy{kind}")
    call("cudaMemcpyAsync", target, source, size_bytes, direction, stream.handle)

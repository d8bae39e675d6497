"""A thin layer over CUDA's runtime: errors become exceptions, and handles are closed.

It needs `cuda-bindings` and a driver, but no CUDA toolkit. Each call returns its error first. The
calls used here have the same signatures in cuda-bindings 12.9 and 13. CUDA applies
CUDA_VISIBLE_DEVICES; this process uses the first visible device.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import DependencyError, EngineError, GpuLostError
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.cuda.errors import error_of

_NO_LIMIT = 2**64 - 1

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
    """Make CUDA load each kernel on its first use; call this before CUDA's first call.

    It is the default since CUDA 12.2. Older versions load all kernels of all libraries at once.
    """
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")


def call(name: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime, and return its results: None, a value or a tuple.

    Raises:
        EngineError: The call failed; GpuMemoryError or GpuLostError if the error code says so.
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


def keep_freed_memory() -> None:
    """Keep memory that was freed in the order of a stream for the next allocation of that kind.

    Otherwise each wait for the GPU gives it back, and a batch's memory is mapped anew.
    """
    attribute = runtime().cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
    threshold_bytes = importlib.import_module("cuda.bindings.driver").cuuint64_t(_NO_LIMIT)
    pool = call("cudaDeviceGetDefaultMemPool", call("cudaGetDevice"))
    call("cudaMemPoolSetAttribute", pool, attribute, threshold_bytes)


def synchronize() -> None:
    """Wait for all of the GPU's work.

    Raises:
        GpuLostError: The GPU is lost.
    """
    call("cudaDeviceSynchronize")


@contextmanager
def detect_lost_gpu() -> Iterator[None]:
    """Raise GpuLostError in place of another EngineError if the GPU is lost."""
    try:
        yield
    except GpuLostError:
        raise
    except EngineError:
        synchronize()  # raises GpuLostError; TensorRT does not report a lost GPU
        raise


class Handle(Closing):
    """A CUDA handle that is released at most once; a context manager."""

    def __init__(self, handle: Any, release: str) -> None:
        self.handle = handle
        self._release = release

    def close(self) -> None:
        """Release the handle; never raises, for each release fails after a lost GPU."""
        if self.handle is None:
            return
        handle, self.handle = self.handle, None
        error = getattr(runtime(), self._release)(handle)[0]
        if error:
            log.debug("%s failed: %s", self._release, error.name)


class Stream(Handle):
    """A queue of GPU work that does not wait for other streams."""

    def __init__(self) -> None:
        flags = runtime().cudaStreamNonBlocking
        super().__init__(call("cudaStreamCreateWithFlags", flags), "cudaStreamDestroy")

    @property
    def address(self) -> int:
        """The handle as an integer, for TensorRT."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait for the stream's work; other Python threads run meanwhile."""
        call("cudaStreamSynchronize", self.handle)


class Event(Handle):
    """A mark in a stream. A wait for it occupies a core, or sleeps if the event is `blocking`."""

    def __init__(self, *, blocking: bool) -> None:
        cudart = runtime()
        flags = cudart.cudaEventDisableTiming | (cudart.cudaEventBlockingSync if blocking else 0)
        super().__init__(call("cudaEventCreateWithFlags", flags), "cudaEventDestroy")


class DeviceBuffer(Handle):
    """Memory on the GPU; `handle` is its address."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(int(call("cudaMalloc", max(1, size_bytes))), "cudaFree")


class PinnedBuffer(Handle):
    """Pinned memory of the host, which the GPU reads and writes; `handle` is its address.

    `array` is a NumPy view of it, initially zeros; do not use the view after `close`.
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

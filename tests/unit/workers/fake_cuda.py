# ruff: noqa: N802, N803, N815 - the names are CUDA's
"""CUDA's runtime as cuda-bindings offers it, on the CPU: work waits in streams until waited for.

`Cuda` has those functions of `cuda.bindings.runtime` that are used, and `fake_driver.Driver` those
of `cuda.bindings.driver`, with the real ones' names and parameters: `test_fake_cuda.py` compares
them with the real modules, so a call that does not exist there fails here too. Addresses are real
ones of the host's memory. Work runs only when something waits for it: what is read or overwritten
too early shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

GPU = "NVIDIA H100 80GB HBM3"
TOTAL_BYTES = 1 << 30

# Names and numbers as in cuda-bindings 12.9 and 13.5.
ERRORS = {
    "cudaSuccess": 0,
    "cudaErrorInvalidValue": 1,
    "cudaErrorMemoryAllocation": 2,
    "cudaErrorInitializationError": 3,
    "cudaErrorInsufficientDriver": 35,
    "cudaErrorDevicesUnavailable": 46,
    "cudaErrorNoDevice": 100,
    "cudaErrorInvalidDevice": 101,
    "cudaErrorDeviceUninitialized": 201,
    "cudaErrorECCUncorrectable": 214,
    "cudaErrorNvlinkUncorrectable": 220,
    "cudaErrorContained": 226,
    "cudaErrorInvalidResourceHandle": 400,
    "cudaErrorNotReady": 600,
    "cudaErrorIllegalAddress": 700,
    "cudaErrorLaunchOutOfResources": 701,
    "cudaErrorLaunchTimeout": 702,
    "cudaErrorContextIsDestroyed": 709,
    "cudaErrorAssert": 710,
    "cudaErrorHardwareStackError": 714,
    "cudaErrorIllegalInstruction": 715,
    "cudaErrorMisalignedAddress": 716,
    "cudaErrorLaunchFailure": 719,
    "cudaErrorSystemNotReady": 802,
    "cudaErrorMpsRpcFailure": 806,
    "cudaErrorStreamCaptureUnsupported": 900,
    "cudaErrorStreamCaptureInvalidated": 901,
    "cudaErrorUnknown": 999,
}
Error = IntEnum("Error", ERRORS)  # type: ignore[misc]
SUCCESS = Error(0)

Op = Callable[[], None]


class _Stream:
    def __init__(self) -> None:
        self.waiting: list[Op] = []
        self.captured: list[Op] | None = None
        self.done = 0  # operations

    def put(self, op: Op) -> None:
        (self.waiting if self.captured is None else self.captured).append(op)

    def run(self, count: int | None = None) -> None:
        ready, self.waiting = self.waiting[:count], self.waiting[len(self.waiting[:count]) :]
        for op in ready:
            op()
            self.done += 1


class Cuda:
    """One GPU of a process; the methods with CUDA's names are those of the real module."""

    cudaError_t = Error
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaEventBlockingSync = 1
    cudaHostAllocDefault = 0
    cudaHostRegisterDefault = 0
    cudaMemcpyKind = IntEnum(
        "cudaMemcpyKind",
        {
            "cudaMemcpyHostToDevice": 1,
            "cudaMemcpyDeviceToHost": 2,
            "cudaMemcpyDeviceToDevice": 3,
        },
    )
    cudaStreamCaptureMode = IntEnum(
        "cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1}
    )
    cudaDeviceAttr = IntEnum(
        "cudaDeviceAttr",
        {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76},
    )

    cudaMemPoolAttr = IntEnum("cudaMemPoolAttr", {"cudaMemPoolAttrReleaseThreshold": 4})

    def __init__(self) -> None:
        self.kept_bytes = 0  # of freed memory, over a wait for the GPU
        self.held: dict[int, Any] = {}  # what was taken and not given back
        self.registered: dict[int, int] = {}  # the sizes of pinned memory of others, by address
        self.calls: list[str] = []
        self.limit_bytes = TOTAL_BYTES
        self.known: list[tuple[int, int]] = []  # addresses and sizes of other libraries' memory
        self.in_flight_most = 0
        self.waited_with: list[int] = []  # the flags of the events that were waited for
        self.default_stream = _Stream()
        self._failures: dict[str, tuple[Error, int]] = {}
        self._lost: Error | None = None
        self._next = 1

    def fail(self, name: str, error: str, *, after: int = 0) -> None:
        """Let a call fail from now on, after that many that work."""
        self._failures[name] = (Error[error], after)

    def lose(self, error: str = "cudaErrorIllegalAddress") -> None:
        """Lose the GPU: all that asks it for anything fails."""
        self._lost = Error[error]

    def _error(self, name: str) -> Error:
        self.calls.append(name)
        if self._lost is not None:
            return self._lost
        error, after = self._failures.get(name, (SUCCESS, 0))
        if error and after:
            self._failures[name] = (error, after - 1)
            return SUCCESS
        return error

    def _take(self, name: str, make: Callable[[], Any]) -> tuple[Error, Any]:
        error = self._error(name)
        if error:
            return error, None
        made = make()
        handle = ctypes.addressof(made) if isinstance(made, ctypes.Array) else self._next
        self._next += 1
        self.held[handle] = made
        return SUCCESS, handle

    def _give_back(self, name: str, handle: int) -> tuple[Error]:
        assert self.held.pop(handle, None) is not None, f"{name}: {handle} was not held"
        return (self._error(name),)

    def bytes_held(self) -> int:
        return sum(len(held) for held in self.held.values() if isinstance(held, ctypes.Array))

    def stream(self, handle: int) -> _Stream:
        stream: _Stream = self.held[handle]
        return stream

    # From here on: the real module's functions.

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return SUCCESS, f"words for {error.name}".encode()

    def cudaGetDevice(self) -> tuple[Error, int | None]:
        error = self._error("cudaGetDevice")
        return error, None if error else 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        return self._error("cudaGetDeviceProperties"), SimpleNamespace(name=GPU.encode() + b"\0\0")

    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Error, int]:
        return self._error("cudaDeviceGetAttribute"), {75: 9, 76: 0}[int(attr)]

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        return self._error("cudaMemGetInfo"), TOTAL_BYTES - self.bytes_held(), TOTAL_BYTES

    def cudaDeviceGetDefaultMemPool(self, device: int) -> tuple[Error, Any]:
        return self._error("cudaDeviceGetDefaultMemPool"), "pool"

    def cudaMemPoolSetAttribute(self, memPool: Any, attr: Any, value: Any) -> tuple[Error]:
        assert memPool == "pool"
        error = self._error("cudaMemPoolSetAttribute")
        if not error:
            self.kept_bytes = int(value)
        return (error,)

    def cudaDeviceSynchronize(self) -> tuple[Error]:
        error = self._error("cudaDeviceSynchronize")
        if not error:
            self.default_stream.run()
            for held in list(self.held.values()):
                if isinstance(held, _Stream):
                    held.run()
        return (error,)

    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Error, Any]:
        own = [(at, len(held)) for at, held in self.held.items() if isinstance(held, ctypes.Array)]
        known = any(0 <= ptr - start < size for start, size in own + self.known)
        return SUCCESS, SimpleNamespace(device=0 if known else 1)

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:
        if self.bytes_held() + size > self.limit_bytes:
            return Error["cudaErrorMemoryAllocation"], None
        return self._take(
            "cudaMalloc", lambda: (ctypes.c_char * size).from_buffer_copy(_full(size))
        )

    def cudaFree(self, devPtr: int) -> tuple[Error]:
        return self._give_back("cudaFree", devPtr)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, int | None]:
        return self._take(
            "cudaHostAlloc", lambda: (ctypes.c_char * size).from_buffer_copy(_full(size))
        )

    def cudaFreeHost(self, ptr: int) -> tuple[Error]:
        return self._give_back("cudaFreeHost", ptr)

    def cudaHostRegister(self, ptr: int, size: int, flags: int) -> tuple[Error]:
        error = self._error("cudaHostRegister")
        if not error:
            assert ptr not in self.registered
            self.registered[ptr] = size
        return (error,)

    def cudaHostUnregister(self, ptr: int) -> tuple[Error]:
        del self.registered[ptr]
        return (self._error("cudaHostUnregister"),)

    def cudaMemcpy(self, dst: int, src: int, count: int, kind: Any) -> tuple[Error]:
        error = self._error("cudaMemcpy")
        if error:
            return (error,)
        if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice:
            # It returns once the bytes are staged, and streams of this kind do not wait for it.
            staged = ctypes.create_string_buffer(ctypes.string_at(src, count), count)
            self.default_stream.put(lambda: _copy(dst, ctypes.addressof(staged), count))
        else:
            ctypes.memmove(dst, src, count)
        return (error,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: int
    ) -> tuple[Error]:
        error = self._error("cudaMemcpyAsync")
        if not error:
            self.stream(stream).put(lambda: _copy(dst, src, count))
        return (error,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int | None]:
        return self._take("cudaStreamCreateWithFlags", _Stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        return self._give_back("cudaStreamDestroy", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        error = self._error("cudaStreamSynchronize")
        if not error:
            self.stream(stream).run()
        return (error,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Error]:
        error = self._error("cudaStreamBeginCapture")
        if not error:
            self.stream(stream).captured = []
        return (error,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, int | None]:
        captured, self.stream(stream).captured = self.stream(stream).captured, None
        return self._take("cudaStreamEndCapture", lambda: captured)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Error, int | None]:
        return self._take("cudaGraphInstantiate", lambda: list(self.held[graph]))

    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        return self._give_back("cudaGraphDestroy", graph)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Error]:
        return self._give_back("cudaGraphExecDestroy", graphExec)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Error]:
        error = self._error("cudaGraphLaunch")
        if not error:
            self.stream(stream).waiting += self.held[graphExec]
        return (error,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, int | None]:
        return self._take("cudaEventCreateWithFlags", lambda: {"flags": flags})

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        return self._give_back("cudaEventDestroy", event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        error = self._error("cudaEventRecord")
        if not error:
            marked = self.stream(stream)
            count = len(marked.waiting)
            self.held[event].update(stream=marked, count=count, done=marked.done + count)
            busy = [s for s in self.held.values() if isinstance(s, _Stream) and s.waiting]
            self.in_flight_most = max(self.in_flight_most, len(busy))
        return (error,)

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        error = self._error("cudaEventSynchronize")
        self.waited_with.append(self.held[event]["flags"])
        if not error:
            self.held[event]["stream"].run(self.held[event]["count"])
        return (error,)

    def cudaEventQuery(self, event: int) -> tuple[Error]:
        error = self._error("cudaEventQuery")
        known = self.held[event]
        is_done = "stream" not in known or known["stream"].done >= known["done"]
        return (error or (SUCCESS if is_done else Error["cudaErrorNotReady"]),)


def _full(size: int) -> bytes:
    """Memory as it comes: holding what another program left."""
    return b"\xff" * size


def _copy(target: int, source: int, count: int) -> None:
    ctypes.memmove(target, source, count)

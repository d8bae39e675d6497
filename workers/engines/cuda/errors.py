"""CUDA's error codes as exceptions: too little memory, a lost GPU, or any other failure."""

from __future__ import annotations

from typing import Any

from clipfleet.errors import EngineError, GpuLostError, GpuMemoryError

_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
_NO_GPU = {"cudaErrorNoDevice", "cudaErrorInsufficientDriver", "cudaErrorStubLibrary"}
# After one of these errors each later call of the process fails, or the device is gone.
_LOST = _NO_GPU | {
    "cudaErrorAssert",
    "cudaErrorCompatNotSupportedOnDevice",
    "cudaErrorContained",
    "cudaErrorContextIsDestroyed",
    "cudaErrorCudartUnloading",
    "cudaErrorDeviceUninitialized",
    "cudaErrorDevicesUnavailable",
    "cudaErrorECCUncorrectable",
    "cudaErrorExternalDevice",
    "cudaErrorHardwareStackError",
    "cudaErrorIllegalAddress",
    "cudaErrorIllegalInstruction",
    "cudaErrorInitializationError",
    "cudaErrorInvalidAddressSpace",
    "cudaErrorInvalidPc",
    "cudaErrorLaunchFailure",
    "cudaErrorLaunchTimeout",
    "cudaErrorMisalignedAddress",
    "cudaErrorMpsClientTerminated",
    "cudaErrorMpsConnectionFailed",
    "cudaErrorMpsRpcFailure",
    "cudaErrorMpsServerNotReady",
    "cudaErrorNvlinkUncorrectable",
    "cudaErrorSystemDriverMismatch",
    "cudaErrorSystemNotReady",
    "cudaErrorTensorMemoryLeak",
    "cudaErrorUnknown",
}


def error_of(error: Any, name: str, *, described: str) -> EngineError:
    """Return the exception for a `cudaError_t` that the call `name` returned."""
    what = f"{name} failed: {error.name} ({int(error)}, {described})"
    if error.name == _OUT_OF_MEMORY:
        return GpuMemoryError(
            f"{what}: end other programs on this GPU (nvidia-smi), lower engine_contexts, or "
            "use an engine with smaller batches"
        )
    if error.name in _NO_GPU:
        return GpuLostError(
            f"{what}: no GPU can be used here; see nvidia-smi, the driver's version and "
            "CUDA_VISIBLE_DEVICES"
        )
    if error.name in _LOST:
        return GpuLostError(
            f"{what}: this process cannot use the GPU any more; start it again, and if this "
            "comes back see nvidia-smi and the kernel's log (Xid)"
        )
    return EngineError(what)

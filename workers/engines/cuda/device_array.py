"""Arrays in the GPU's memory, such as torch's: checked and made without importing torch.

An array gives its address by version 2 or 3 of `__cuda_array_interface__`, as Numba defines it:
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html. torch's tensors have
version 2, which does not name the stream that fills the tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError
from clipfleet.model_card import TensorSpec
from clipfleet.workers.engines.base import check_inputs
from clipfleet.workers.engines.cuda import runtime as cuda

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

# torch's methods that convert a tensor, by NumPy's names.
_CONVERSIONS = {"float32": "float", "float16": "half", "int32": "int", "int64": "long"}


@dataclass(frozen=True, kw_only=True)
class GpuArray:
    """Contiguous inputs on the GPU; `owner` owns their memory."""

    owner: Any
    address: int
    count: int
    interface: dict[str, Any]


def gpu_array(given: Any, spec: TensorSpec, *, taker: str) -> GpuArray:
    """Return contiguous inputs in the spec's dtype; a torch tensor is converted if need be.

    Raises:
        EngineError: The inputs have another shape or kind of dtype, are on another GPU, or need a
            conversion and are no torch tensor.
    """
    interface = given.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    check_inputs(interface["shape"], dtype, spec, taker=taker)
    if dtype != np.dtype(spec.dtype) or not _is_contiguous(interface, dtype):
        if not hasattr(given, "contiguous"):
            raise EngineError(
                f"inputs on the GPU are {dtype} with strides {interface.get('strides')}: the "
                f"{taker} takes {spec.dtype}, contiguous; convert them first"
            )
        given = getattr(given, _CONVERSIONS[spec.dtype])().contiguous()
        interface = given.__cuda_array_interface__
    address = int(interface["data"][0])
    if math.prod(interface["shape"]):
        _check_device(address)
    return GpuArray(
        owner=given, address=address, count=int(interface["shape"][0]), interface=interface
    )


def _is_contiguous(interface: dict[str, Any], dtype: np.dtype[Any]) -> bool:
    strides = interface.get("strides")
    if strides is None:
        return True
    shape = interface["shape"]
    expected = [dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return all(
        size == 1 or given == wanted
        for size, given, wanted in zip(shape, strides, expected, strict=True)
    )


def _check_device(address: int) -> None:
    where, here = _device_of(address), int(cuda.call("cudaGetDevice"))
    if where != here:
        raise EngineError(
            f"inputs lie on GPU {where} and the engine on GPU {here}: copy them there first"
        )


def _device_of(address: int) -> int:
    """Return the number of the GPU on which an address lies."""
    return int(cuda.call("cudaPointerGetAttributes", address).device)


def wait_for(inputs: GpuArray) -> None:
    """Wait until the inputs are written and the memory of the features may be overwritten."""
    if "stream" not in inputs.interface or hasattr(inputs.owner, "new_empty"):
        cuda.synchronize()
    elif inputs.interface["stream"] is not None:
        cuda.call("cudaStreamSynchronize", int(inputs.interface["stream"]))


class Features:
    """GPU memory for features (n, D): a torch tensor, or a buffer that is copied to the host."""

    def __init__(self, inputs: GpuArray, spec: TensorSpec) -> None:
        self._shape = (inputs.count, *(size or 1 for size in spec.shape[1:]))
        self._dtype = np.dtype(spec.dtype)
        self._tensor: Any = None
        self._buffer: cuda.DeviceBuffer | None = None
        if hasattr(inputs.owner, "new_empty"):
            tensor = inputs.owner.new_empty(self._shape)
            self._tensor = getattr(tensor, _CONVERSIONS[spec.dtype])()
            self.address = int(self._tensor.__cuda_array_interface__["data"][0])
        else:
            self._buffer = cuda.DeviceBuffer(math.prod(self._shape) * self._dtype.itemsize)
            self.address = self._buffer.handle

    def result(self) -> Any:
        """Return the features: a float32 tensor on the GPU, or a float32 NumPy array."""
        if self._tensor is not None:
            return self._tensor.float()
        features: NDArray[Any] = np.empty(self._shape, self._dtype)
        if features.nbytes:
            kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
            address = features.ctypes.data
            cuda.call("cudaMemcpy", address, self.address, features.nbytes, kind)
        return features.astype(np.float32, copy=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._buffer is not None:
            self._buffer.close()

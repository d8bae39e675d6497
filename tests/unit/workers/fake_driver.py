# ruff: noqa: N802, N803 - the names are CUDA's
"""CUDA's driver as cuda-bindings offers it: it runs the kernels of resize.cu with NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.workers.images.preprocess import MEAN, STD
from tests.unit.workers.fake_cuda import Cuda

FIELDS = 9
RESULTS = {
    "CUDA_SUCCESS": 0,
    "CUDA_ERROR_INVALID_VALUE": 1,
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": 222,
}
Result = IntEnum("Result", RESULTS)  # type: ignore[misc]
SUCCESS = Result(0)


class Driver:
    """The driver's calls for the streams of a fake runtime."""

    cuuint64_t = int

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.modules = 0  # that are loaded
        self.refuses_ptx = False

    def cuModuleLoadData(self, image: bytes) -> tuple[Result, Any]:
        assert "cudaDeviceSynchronize" in self._cuda.calls, "there is no context yet"
        assert image.endswith(b"\0")
        if self.refuses_ptx:
            return Result["CUDA_ERROR_UNSUPPORTED_PTX_VERSION"], None
        self.modules += 1
        return SUCCESS, "module"

    def cuModuleUnload(self, hmod: Any) -> tuple[Result]:
        self.modules -= 1
        return (SUCCESS,)

    def cuModuleGetFunction(self, hmod: Any, name: bytes) -> tuple[Result, Any]:
        return SUCCESS, {b"first_pass": first_pass, b"second_pass": second_pass}[name]

    def cuLaunchKernel(  # noqa: PLR0917 - the parameters are CUDA's
        self,
        f: Any,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: Any,
        extra: int,
    ) -> tuple[Result]:
        if not gridDimX * gridDimY * gridDimZ:
            return (Result["CUDA_ERROR_INVALID_VALUE"],)
        values, types = kernelParams
        assert len(values) == len(types)
        stream = self._cuda.stream(hStream)
        stream.put(partial(f, gridDimY, gridDimX * blockDimX, *values))
        return (SUCCESS,)


def first_pass(count: int, threads: int, descriptions: int, side: int) -> None:
    for row in _memory(descriptions, (count, FIELDS), "int64"):
        pixels, buffer, x_table, y_table, x_length, y_length, width, height, y_first = map(int, row)
        source = _memory(pixels, (height, width, 3), "uint8")
        table, length, axis = (y_table, y_length, 0) if y_first else (x_table, x_length, 1)
        made = _summed(source, table, length, side, axis)
        assert made.size // 3 <= threads, "too few blocks"
        _memory(buffer, made.shape, "uint8")[:] = made


def second_pass(count: int, threads: int, descriptions: int, side: int, inputs: int) -> None:
    assert side * side <= threads, "too few blocks"
    out = _memory(inputs, (count, 3, side, side), "float32")
    for row, made in zip(_memory(descriptions, (count, FIELDS), "int64"), out, strict=True):
        _, buffer, x_table, y_table, x_length, y_length, width, height, y_first = map(int, row)
        shape = (side, width, 3) if y_first else (height, side, 3)
        table, length, axis = (x_table, x_length, 1) if y_first else (y_table, y_length, 0)
        levels = _summed(_memory(buffer, shape, "uint8"), table, length, side, axis)
        mean, deviation = np.array([MEAN, STD], np.float32).reshape(2, 3, 1, 1)
        made[:] = (
            levels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean
        ) / deviation


def _summed(
    source: NDArray[np.uint8], table: int, length: int, side: int, axis: int
) -> NDArray[np.uint8]:
    windows = _memory(table, (side, 2), "int32")
    weights = _memory(table + windows.nbytes, (side, length), "int32")
    return weighted(source, windows, weights, axis)


def weighted(
    source: NDArray[np.uint8],
    windows: NDArray[np.int32],
    weights: NDArray[np.int32],
    axis: int,
) -> NDArray[np.uint8]:
    """Return one pass of a resize along an axis, by the rule in resize.cu."""
    lines = np.moveaxis(source, axis, 0).astype(np.int64)
    rows: Sequence[NDArray[np.int64]] = [
        np.tensordot(values[:count].astype(np.int64), lines[first : first + count], 1)
        for (first, count), values in zip(windows, weights, strict=True)
    ]
    sums = np.stack(rows) + (1 << 21)
    return np.moveaxis(np.clip(sums >> 22, 0, 255).astype(np.uint8), 0, axis)


def _memory(address: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

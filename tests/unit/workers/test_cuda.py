"""The layer over CUDA's runtime: each error named, each handle given back."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import numpy as np
import pytest

from clipfleet.errors import DependencyError, EngineError, GpuLostError, GpuMemoryError
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.graph import Graph
from tests.unit.workers.fake_cuda import ERRORS, GPU, Cuda

HARMLESS = {
    "cudaErrorInvalidValue",
    "cudaErrorInvalidDevice",
    "cudaErrorInvalidResourceHandle",
    "cudaErrorLaunchOutOfResources",
    "cudaErrorNotReady",
    "cudaErrorStreamCaptureInvalidated",
    "cudaErrorStreamCaptureUnsupported",
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake


def kind_of(error: str) -> type[EngineError]:
    if error == "cudaErrorMemoryAllocation":
        return GpuMemoryError
    return EngineError if error in HARMLESS else GpuLostError


@pytest.mark.parametrize("error", [name for name in ERRORS if name != "cudaSuccess"])
def test_every_error_is_raised_by_its_kind_with_the_calls_name(gpu: Cuda, error: str) -> None:
    gpu.fail("cudaMemGetInfo", error)
    expected = f"cudaMemGetInfo failed: {error} ({ERRORS[error]}, words for {error})"
    with pytest.raises(EngineError, match=re.escape(expected)) as caught:
        cuda.memory_info()
    assert type(caught.value) is kind_of(error)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("cudaErrorMemoryAllocation", "lower engine_contexts"),
        ("cudaErrorNoDevice", "CUDA_VISIBLE_DEVICES"),
        ("cudaErrorECCUncorrectable", "start it again"),
    ],
)
def test_an_error_names_its_remedy(gpu: Cuda, error: str, remedy: str) -> None:
    gpu.fail("cudaGetDevice", error)
    with pytest.raises(EngineError, match=remedy):
        cuda.device_name()


def test_the_gpu_is_named(gpu: Cuda) -> None:
    assert cuda.device_name() == GPU
    assert cuda.compute_capability() == "9.0"


def test_kernels_are_loaded_when_they_are_used(gpu: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    cuda.device_name()
    assert os.environ["CUDA_MODULE_LOADING"] == "EAGER", "the user's choice stays"
    monkeypatch.delenv("CUDA_MODULE_LOADING")
    cuda.device_name()
    assert os.environ["CUDA_MODULE_LOADING"] == "LAZY"


def test_missing_bindings_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[gpu\]'"):
        cuda.device_name()


@pytest.mark.parametrize(
    "take",
    [
        cuda.Stream,
        lambda: cuda.Event(blocking=True),
        lambda: cuda.DeviceBuffer(16),
        lambda: cuda.PinnedBuffer((2, 2), "float32"),
    ],
    ids=["stream", "event", "device buffer", "pinned buffer"],
)
def test_a_handle_is_released_once(gpu: Cuda, take: Callable[[], cuda.Handle]) -> None:
    with take() as held:
        assert held.handle in gpu.held
    assert not gpu.held
    held.close()  # the fake fails on a handle that it does not hold


def test_giving_back_after_the_gpu_is_lost_raises_nothing(gpu: Cuda) -> None:
    with cuda.Stream():
        gpu.lose()
        with pytest.raises(GpuLostError, match="cudaDeviceSynchronize"):
            cuda.synchronize()
    assert not gpu.held


@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_a_pinned_buffer_is_a_numpy_array_of_zeros(gpu: Cuda, shape: tuple[int, int]) -> None:
    with cuda.PinnedBuffer(shape, "float16") as buffer:
        np.testing.assert_array_equal(buffer.array, np.zeros(shape, np.float16))
        assert buffer.array.dtype == np.float16
        assert buffer.size_bytes == buffer.array.nbytes


def test_a_graph_runs_what_was_captured_each_time_it_is_launched(gpu: Cuda) -> None:
    with (
        cuda.Stream() as stream,
        cuda.PinnedBuffer((1,), "int32") as source,
        cuda.PinnedBuffer((1,), "int32") as target,
    ):

        def copy() -> None:
            cuda.copy_async(target.handle, source.handle, 4, "HostToDevice", stream)

        with Graph(stream, copy) as graph:
            for number in (3, 4):
                source.array[0] = number
                cuda.call("cudaGraphLaunch", graph.handle, stream.handle)
                assert target.array[0] != number
                stream.synchronize()
                assert target.array[0] == number
    assert not gpu.held


@pytest.mark.parametrize(
    "fails", ["cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_capture_that_fails_leaves_the_stream_usable(gpu: Cuda, fails: str) -> None:
    gpu.fail(fails, "cudaErrorStreamCaptureInvalidated")
    with cuda.Stream() as stream, cuda.PinnedBuffer((1,), "int32") as buffer:
        with pytest.raises(EngineError, match=f"{fails} failed"):
            Graph(
                stream,
                lambda: cuda.copy_async(buffer.handle, buffer.handle, 4, "HostToDevice", stream),
            )
        assert gpu.stream(stream.handle).captured is None
        stream.synchronize()
    assert not gpu.held

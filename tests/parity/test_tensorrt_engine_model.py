"""The engine as the guide calls it: `TensorRTModel(path)(inputs={"image": array})`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipfleet.errors import EngineError, EngineUnverifiedError, EngineVersionError, GpuMemoryError
from clipfleet.model_card import card_path
from clipfleet.workers.engines.cuda.runtime import DeviceBuffer
from clipfleet.workers.engines.tensorrt.engine import TensorRTModel
from tests.unit.workers.fake_tensorrt import State, expected, images, install, plan, write_engine

FEATURES = "unnorm_image_features"
DYNAMIC = plan(shape=(-1, 3, 8, 8), sizes=(1, 4, 8))
TEXT = plan(name="text", shape=(1, 10), dtype="INT32")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> State:
    return install(monkeypatch)


class OnGpu:
    """An array on the GPU, as CuPy or Numba would give one."""

    def __init__(self, array: Any, **interface: Any) -> None:
        self.buffer = DeviceBuffer(array.nbytes)
        if array.nbytes:
            from clipfleet.workers.engines.cuda import runtime as cuda

            cuda.call("cudaMemcpy", self.buffer.handle, array.ctypes.data, array.nbytes, 1)
            cuda.synchronize()
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.buffer.handle, False),
            "version": 3,
            "strides": None,
            **interface,
        }


class GpuTensor:
    """A torch tensor in the memory of the fake GPU, with the attributes of a CUDA tensor."""

    def __init__(self, tensor: torch.Tensor, state: State) -> None:
        self.tensor = tensor
        self.state = state
        state.cuda.known.append((tensor.data_ptr(), tensor.nbytes))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = [step * self.tensor.element_size() for step in self.tensor.stride()]
        return {
            "shape": tuple(self.tensor.shape),
            "typestr": np.dtype(str(self.tensor.dtype).removeprefix("torch.")).str,
            "data": (self.tensor.data_ptr() if self.tensor.numel() else 0, False),
            "strides": None if self.tensor.is_contiguous() else tuple(strides),
            "version": 2,
        }

    def __getattr__(self, name: str) -> Any:
        if name not in {"contiguous", "detach", "float", "half", "int", "long", "new_empty"}:
            raise AttributeError(name)
        return lambda *given: GpuTensor(getattr(self.tensor, name)(*given), self.state)


@pytest.mark.parametrize("count", [0, 1, 5, 13])
@pytest.mark.parametrize("data", [plan(), DYNAMIC], ids=["batch 1", "dynamic"])
def test_numpy_arrays_give_numpy_arrays(
    machine: State, tmp_path: Path, data: bytes, count: int
) -> None:
    _, path = write_engine(tmp_path, data)
    with TensorRTModel(path) as model:
        features = model(inputs={"image": images(count)})[FEATURES]
    assert isinstance(features, np.ndarray)
    np.testing.assert_array_equal(features, expected(images(count)))
    assert not machine.cuda.held
    assert not machine.alive


def test_tensors_of_the_host_give_numpy_arrays(machine: State, tmp_path: Path) -> None:
    _, path = write_engine(tmp_path)
    with TensorRTModel(path) as model:
        features = model(inputs={"image": torch.from_numpy(images(3))})[FEATURES]
    np.testing.assert_array_equal(features, expected(images(3)))


@pytest.mark.parametrize("count", [0, 1, 5, 13])
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("data", [plan(), DYNAMIC], ids=["batch 1", "dynamic"])
def test_arrays_of_the_gpu_are_not_copied_to_the_host_first(
    machine: State, tmp_path: Path, data: bytes, contexts: int, count: int
) -> None:
    _, path = write_engine(tmp_path, data)
    with TensorRTModel(path, contexts=contexts) as model:
        for given in (images(count), images(count)[::-1].copy()):
            features = model(inputs={"image": OnGpu(given)})[FEATURES]
            assert features.dtype == np.float32
            np.testing.assert_array_equal(features, expected(given))


@pytest.mark.parametrize(
    ("interface", "waited"),
    [
        ({"stream": None}, 0),
        ({}, 1),
    ],
)
def test_inputs_are_waited_for_unless_they_say_that_they_are_there(
    machine: State, tmp_path: Path, interface: dict[str, Any], waited: int
) -> None:
    _, path = write_engine(tmp_path)
    with TensorRTModel(path) as model:
        given = OnGpu(images(1), **interface)
        before = machine.cuda.calls.count("cudaDeviceSynchronize")
        model(inputs={"image": given})
        after = machine.cuda.calls.count("cudaDeviceSynchronize")
    assert after - before == waited + 1  # and once for the features


def test_the_stream_that_fills_the_inputs_is_waited_for(machine: State, tmp_path: Path) -> None:
    from clipfleet.workers.engines.cuda.runtime import Stream, copy_async

    _, path = write_engine(tmp_path)
    with TensorRTModel(path) as model, Stream() as stream:
        given = OnGpu(np.zeros((1, 3, 8, 8), np.float32), stream=stream.address)
        filled = OnGpu(images(1))
        copy_async(given.buffer.handle, filled.buffer.handle, 768, "DeviceToDevice", stream)
        features = model(inputs={"image": given})[FEATURES]
    np.testing.assert_array_equal(features, expected(images(1)))


@pytest.mark.parametrize("count", [0, 3])
def test_a_torch_tensor_of_the_gpu_gives_one_of_the_gpu(
    machine: State, tmp_path: Path, count: int
) -> None:
    _, path = write_engine(tmp_path)
    with TensorRTModel(path) as model:
        given = GpuTensor(torch.from_numpy(images(count)), machine)
        features = model(inputs={"image": given})[FEATURES]
    assert isinstance(features, GpuTensor)
    assert features.tensor.dtype == torch.float32
    np.testing.assert_array_equal(features.tensor.numpy(), expected(images(count)))


def test_a_torch_tensor_of_another_dtype_or_layout_is_converted(
    machine: State, tmp_path: Path
) -> None:
    _, path = write_engine(tmp_path, TEXT)
    ids = np.random.default_rng(0).integers(0, 21128, (10, 4))
    with TensorRTModel(path) as model:
        given = GpuTensor(torch.from_numpy(ids).T, machine)
        features = model(inputs={"text": given})["unnorm_text_features"]
    assert features.tensor.dtype == torch.float32
    np.testing.assert_array_equal(features.tensor.numpy(), expected(ids.T))


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ({"shape": (2, 3, 8, 9)}, r"takes float32 \(n, 3, 8, 8\) as 'image'"),
        ({"typestr": "<i4"}, r"inputs are int32 .* takes float32"),
        ({"typestr": "<f2"}, r"are float16 .* takes float32, contiguous; convert them first"),
        ({"strides": (4, 4, 32, 4)}, r"with strides \(4, 4, 32, 4\): .* convert them first"),
        ({"data": (12345, False)}, "lie on GPU 1 and the engine on GPU 0"),
    ],
)
def test_what_the_engine_cannot_take_from_the_gpu_is_refused(
    machine: State, tmp_path: Path, interface: dict[str, Any], message: str
) -> None:
    _, path = write_engine(tmp_path)
    with (
        TensorRTModel(path) as model,
        pytest.raises(EngineError, match=message),
    ):
        model(inputs={"image": OnGpu(images(2), **interface)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": 1}, "inputs are 'text': .* takes 'image'"),
        ({}, r"inputs are \(none\)"),
        ({"image": np.zeros((1, 3, 9, 8), np.float32)}, r"takes float32 \(n, 3, 8, 8\)"),
        ({"image": np.zeros((1, 3, 8, 8), np.uint8)}, "inputs are uint8"),
    ],
)
def test_wrong_inputs_are_refused(
    machine: State, tmp_path: Path, inputs: dict[str, Any], message: str
) -> None:
    _, path = write_engine(tmp_path)
    with TensorRTModel(path) as model, pytest.raises(EngineError, match=message):
        model(inputs=inputs)


def test_an_engine_without_a_card_runs_only_where_that_is_allowed(
    machine: State, tmp_path: Path
) -> None:
    _, path = write_engine(tmp_path)
    card_path(path).unlink()
    with pytest.raises(EngineUnverifiedError, match=r"has no card .*clipfleet adopt"):
        TensorRTModel(path)
    with TensorRTModel(path, allow_unverified=True) as model:
        features = model(inputs={"image": images(2)})[FEATURES]
    np.testing.assert_array_equal(features, expected(images(2)))


def test_a_card_is_held_to_here_too(
    machine: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = write_engine(tmp_path, proven=False)
    with pytest.raises(EngineUnverifiedError, match="has no parity"):
        TensorRTModel(path)
    install(monkeypatch, "10.3.0")
    with pytest.raises(EngineVersionError, match=r"this is 10\.3\.0"):
        TensorRTModel(path, allow_unverified=True)


def test_loading_that_fails_frees_all_and_a_closed_model_says_so(
    machine: State, tmp_path: Path
) -> None:
    _, path = write_engine(tmp_path)
    machine.contexts_limit = 0
    with pytest.raises(GpuMemoryError, match="no execution context"):
        TensorRTModel(path)
    machine.contexts_limit = 1
    model = TensorRTModel(path)
    model.close()
    with pytest.raises(EngineError, match="is closed"):
        model(inputs={"image": images(1)})
    assert not machine.cuda.held
    assert not machine.alive

"""TensorRT's runtime as its versions offer it, computing on `fake_cuda`'s memory.

An engine's file is JSON (`plan`); each feature is twice an input's number plus one. The classes
have only names and parameters of NVIDIA's bindings of each version: `test_fake_tensorrt.py`
compares them, so a call that does not exist there fails here too.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest

from clipfleet.engine_files import sha256_of
from clipfleet.model_card import MeasuredOn, ModelCard, Parity, TensorSpec, card_path, write_card
from clipfleet.workers.engines.fake import fake_card
from tests.unit.workers.fake_cuda import GPU, Cuda
from tests.unit.workers.fake_driver import Driver

NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}
SERIAL = "Error Code 1: Serialization (Serialization assertion "
WORDS = {  # of 8.6 and 10
    "damaged": SERIAL + "magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
    "version": SERIAL + "stdVersionRead == serializationVersion failed.Version tag does not match)",
    "gpu": "Engine plan file is generated on an incompatible device, expecting compute 7.5 got "
    "compute 9.0, please rebuild.",
    "memory": "Error Code 2: OutOfMemory (no further information)",
}


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


DataType = IntEnum(
    "DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "UINT8": 5, "INT64": 8}
)
Severity = IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3})


class ILogger:
    def __init__(self) -> None:
        self.started = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class State:
    """What a test sets and sees."""

    def __init__(self, cuda: Cuda, version: str) -> None:
        self.cuda = cuda
        self.driver = Driver(cuda)
        self.version = version
        self.major = int(version.split(".", maxsplit=1)[0])
        self.logger: Any = None
        self.alive: list[str] = []  # engines and contexts that were not freed
        self.contexts_limit = 1000
        self.capturable = True
        self.fails_at: int | None = None  # the how manieth run fails
        self.fails_with = "Error Code 1: Cuda Runtime (something else)"
        self.runs = 0

    def say(self, words: str) -> None:
        self.logger.log(Severity.ERROR, words)


def plan(
    *,
    name: str = "image",
    shape: tuple[int, ...] = (1, 3, 8, 8),
    dtype: str = "FLOAT",
    dim: int = 6,
    output: str | None = None,
    output_dtype: str = "FLOAT",
    sizes: tuple[int, int, int] | None = None,
    shares_profile: bool = True,
    broken: str | None = None,
) -> bytes:
    """Return an engine's file; −1 as the first of `shape` makes it dynamic over `sizes`."""
    said = {
        "broken": broken,
        "tensors": [
            {"name": name, "mode": 1, "shape": shape, "dtype": dtype},
            {
                "name": output or f"unnorm_{name}_features",
                "mode": 2,
                "shape": (shape[0], dim),
                "dtype": output_dtype,
            },
        ],
        "sizes": sizes,
        "shares_profile": shares_profile,
    }
    return json.dumps(said).encode()


class Runtime:
    def __init__(self, state: State, logger: Any) -> None:
        assert logger.started, "the logger's base was not initialised"
        state.logger = state.logger or logger  # the first stays, as in the real one
        self._state = state

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            said = json.loads(serialized_engine)
        except ValueError:
            said = {"broken": "damaged"}
        if said["broken"]:
            self._state.say(WORDS[said["broken"]])
            return None
        return ICudaEngine(self._state, said)


class ICudaEngine:
    def __init__(self, state: State, said: dict[str, Any]) -> None:
        self._state = state
        self._said = said
        self._tensors = {tensor["name"]: tensor for tensor in said["tensors"]}
        self._profile_taken = False
        state.alive.append("engine")

    def __del__(self) -> None:
        self._state.alive.remove("engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._tensors)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode(self._tensors[name]["mode"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name]["dtype"]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        rest = self.get_tensor_shape(name)[1:]
        return [(size, *rest) for size in self._said["sizes"]]

    def create_execution_context(self) -> IExecutionContext | None:
        if self._state.alive.count("context") >= self._state.contexts_limit:
            self._state.say(WORDS["memory"])
            return None
        return IExecutionContext(self._state, self)


class IExecutionContext:
    def __init__(self, state: State, engine: ICudaEngine) -> None:
        self._state = state
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape = engine.get_tensor_shape(engine.get_tensor_name(0))
        self._ran = False
        # Before 10 only the first context has the profile from the start.
        first = not engine._profile_taken
        self.active_optimization_profile = 0 if first or state.major >= 10 else -1
        engine._profile_taken = True
        state.alive.append("context")

    def __del__(self) -> None:
        self._state.alive.remove("context")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        shares = self._state.major >= 10 or self._engine._said["shares_profile"]
        if not shares:
            self._state.say("Profile 0 has been chosen by another IExecutionContext.")
            return False
        self.active_optimization_profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._engine.get_tensor_mode(name) == TensorIOMode.INPUT
        smallest, _, largest = self._engine._said["sizes"]
        if self.active_optimization_profile < 0 or not smallest <= shape[0] <= largest:
            return False
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        state, stream = self._state, self._state.cuda.stream(stream_handle)
        assert min(self._shape) > 0, "no input shape was set"
        if stream.captured is not None:
            assert self._ran, "captured before the shape's first run"
            if not state.capturable:
                state.say("operation not permitted when stream is capturing")
                return False
        state.runs += 1
        if state.runs == state.fails_at:
            state.say(state.fails_with)
            return False
        self._ran = True
        stream.put(self._compute)
        return True

    def _compute(self) -> None:
        given, made = self._engine._tensors.values()
        count = self._shape[0]
        inputs = _memory(
            self._addresses[given["name"]], (count, *given["shape"][1:]), given["dtype"]
        )
        made_shape = (count, *made["shape"][1:])
        features = _memory(self._addresses[made["name"]], made_shape, made["dtype"])
        features[:] = expected(inputs, features.shape[1])


def _memory(address: int, shape: tuple[int, ...], dtype: str) -> Any:
    numpy_dtype = np.dtype(NUMPY_NAMES[dtype])
    size = int(np.prod(shape)) * numpy_dtype.itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(raw).view(numpy_dtype).reshape(shape)


def expected(inputs: Any, dim: int = 6) -> Any:
    """What an engine computes of (n, …) inputs: float32 (n, dim)."""
    flat = inputs.reshape(len(inputs), int(np.prod(inputs.shape[1:])))
    return (flat[:, :dim] * 2 + 1).astype(np.float32)


def fake_tensorrt(state: State) -> ModuleType:
    """Return a module that stands for TensorRT of the state's version."""
    module: Any = ModuleType("tensorrt")
    module.__version__ = state.version
    module.ILogger = ILogger
    module.TensorIOMode = TensorIOMode
    module.DataType = DataType
    module.Runtime = lambda logger: Runtime(state, logger)
    return module  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch, version: str = "8.6.0") -> State:
    """Put a fake GPU and TensorRT where the real ones would be imported from."""
    cuda = Cuda()
    state = State(cuda, version)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cast("ModuleType", cuda))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", cast("ModuleType", state.driver))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(state))
    return state


def write_engine(
    folder: Path, data: bytes | None = None, *, proven: bool = True, version: str = "8.6.0"
) -> tuple[ModelCard, Path]:
    """Write an engine's file, and return the card that fits it, with its path."""
    data = plan() if data is None else data
    path = folder / "tiny.img.fp16.trt"
    path.write_bytes(data)
    given, made = (_spec(tensor) for tensor in json.loads(data)["tensors"])
    here = MeasuredOn(engine_sha256=sha256_of(path), runtime_version=version, gpu=GPU)
    parity = Parity(
        reference="ONNX fp32",
        items=8,
        cosine_min=0.99999,
        cosine_mean=0.999995,
        max_abs_diff=0.01,
        threshold=0.9999,
        measured_on=here,
    )
    card = replace(
        fake_card("img" if given.name == "image" else "txt"),
        runtime="tensorrt",
        runtime_version=version,
        gpu=GPU,
        engine=path.name,
        engine_sha256=here.engine_sha256,
        input=given,
        output=made,
        parity=parity if proven else None,
    )
    write_card(card, card_path(path))
    return card, path


def _spec(tensor: dict[str, Any]) -> TensorSpec:
    shape = tuple(None if size < 0 else size for size in tensor["shape"])
    return TensorSpec(name=tensor["name"], shape=shape, dtype=NUMPY_NAMES[tensor["dtype"]])


def images(count: int) -> Any:
    """Return inputs of the fake engine, float32 (count, 3, 8, 8)."""
    return np.random.default_rng(count).normal(size=(count, 3, 8, 8)).astype(np.float32)


def assert_nothing_held(state: State) -> None:
    assert not state.cuda.held
    assert not state.cuda.registered
    assert not state.driver.modules
    assert not state.alive

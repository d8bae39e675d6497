"""A deserialised TensorRT engine: its tensors and its execution contexts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from clipfleet.errors import (
    EngineDamagedError,
    EngineError,
    EngineMismatchError,
    EngineVersionError,
    GpuMemoryError,
)
from clipfleet.model_card import TensorSpec
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.tensorrt.compat import numpy_name, take_profile
from clipfleet.workers.engines.tensorrt.logger import process_logger

# Phrases of TensorRT's messages, which differ between versions.
_NO_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|not be allocated|alloc(ation)?[ _]failed"
    r"|(unable to|failed to|cannot|could not) allocate",
    re.IGNORECASE,
)
_OTHER_VERSION = re.compile(r"version|expecting|platform|incompatible|different", re.IGNORECASE)


class ProfileTakenError(EngineError):
    """A dynamic engine has no second execution context: see `take_profile`."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The batch sizes that an engine takes and was tuned for; a static engine has one."""

    smallest: int
    optimum: int
    largest: int


class EngineFile(Closing):
    """A deserialised engine with one input and one output; a context manager."""

    def __init__(self, trt: ModuleType, path: Path, data: bytes) -> None:
        """Deserialise an engine's bytes; `path` is for messages only.

        `data` is code: take it from `read_engine`. Call `cuda.device_name()` first, for
        TensorRT ends the process if there is no GPU.

        Raises:
            EngineDamagedError: The data is cut off, or is no engine.
            EngineVersionError: The engine was built by another version, or for another GPU.
            EngineMismatchError: The engine does not have one input and one output.
            GpuMemoryError: The GPU has no room for its weights.
        """
        self.path = path
        self._trt = trt
        self._messages, logger = process_logger(trt)
        self._messages.clear()
        self._runtime: Any = trt.Runtime(logger)
        self._engine: Any = None
        try:
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                raise self._load_error()
            self.input = self._tensor(trt.TensorIOMode.INPUT, "input")
            self.output = self._tensor(trt.TensorIOMode.OUTPUT, "output")
            self.sizes = self._sizes()
        except BaseException:
            self.close()
            raise

    @property
    def dynamic(self) -> bool:
        """Whether it takes batches of several sizes."""
        return self.input.shape[0] is None

    @property
    def input_row(self) -> tuple[int, ...]:
        """Shape of one item's inputs."""
        return _row(self.input)

    @property
    def output_row(self) -> tuple[int, ...]:
        """Shape of one item's features: (D,)."""
        return _row(self.output)

    def _load_error(self) -> EngineError:
        """Return the exception for a file that TensorRT did not deserialise."""
        cuda.synchronize()
        reason = self._take_messages()
        if _NO_MEMORY.search(reason):
            return GpuMemoryError(
                f"the GPU has no room for {self.path}: TensorRT says {reason}; "
                "end other programs on it (nvidia-smi)"
            )
        if _OTHER_VERSION.search(reason):
            return EngineVersionError(
                f"TensorRT {self._trt.__version__} on {cuda.device_name()} does not take "
                f"{self.path}: {reason}; build the engine here with `clipfleet build`"
            )
        return EngineDamagedError(
            f"TensorRT cannot read {self.path}: {reason}; copy it anew, or build it again with "
            "`clipfleet build`"
        )

    def _tensor(self, mode: Any, role: str) -> TensorSpec:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        names = [name for name in names if engine.get_tensor_mode(name) == mode]
        if len(names) != 1:
            raise EngineMismatchError(
                f"{self.path} has the {role}s {', '.join(map(repr, names)) or '(none)'}: "
                "a tower's engine has one"
            )
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(names[0]))
        if not shape or None in shape[1:]:
            raise EngineMismatchError(
                f"{role} {names[0]!r} of {self.path} has the shape {shape}: only the first "
                "dimension may be dynamic"
            )
        dtype = numpy_name(engine.get_tensor_dtype(names[0]))
        return TensorSpec(name=names[0], shape=shape, dtype=dtype)

    def _sizes(self) -> Sizes:
        if self.input.shape[0] is not None:
            size = self.input.shape[0]
            return Sizes(smallest=size, optimum=size, largest=size)
        shapes = self._engine.get_tensor_profile_shape(self.input.name, 0)
        smallest, optimum, largest = (max(1, int(shape[0])) for shape in shapes)
        return Sizes(smallest=smallest, optimum=optimum, largest=largest)

    def context(self, size: int, *, source: int, target: int, stream: cuda.Stream) -> Any:
        """Return an execution context for batches of `size`: from address `source` to `target`.

        Raises:
            GpuMemoryError: The GPU has no room for the layers' activations.
            ProfileTakenError: This TensorRT version allows no second context of the engine.
        """
        self._messages.clear()
        context = self._engine.create_execution_context()
        if context is None:
            raise self._no_context(size)
        if self.dynamic:
            if not take_profile(context, stream.address):
                raise ProfileTakenError(
                    f"{self.path} runs in one execution context only ({self._take_messages()}): "
                    "set engine_contexts to 1, or build it again with `clipfleet build`"
                )
            stream.synchronize()
            self._check_call(context.set_input_shape(self.input.name, (size, *self.input_row)))
        self._check_call(context.set_tensor_address(self.input.name, source))
        self._check_call(context.set_tensor_address(self.output.name, target))
        return context

    def _no_context(self, size: int) -> EngineError:
        cuda.synchronize()
        free, _ = cuda.memory_info()
        return GpuMemoryError(
            f"no execution context for {self.path} at batch {size}, with {free >> 20} MiB free on "
            f"the GPU: TensorRT says {self._take_messages()}; lower engine_contexts, or use an "
            "engine with smaller batches"
        )

    def _check_call(self, succeeded: bool) -> None:
        if not succeeded:
            raise self.failure()

    def failure(self) -> EngineError:
        """Return the exception for a TensorRT call that failed without a reason."""
        reason = self._take_messages()
        if _NO_MEMORY.search(reason):
            return GpuMemoryError(
                f"the GPU has no room to run {self.path}: TensorRT says {reason}; end other "
                "programs on it (nvidia-smi), lower engine_contexts, or use an engine with smaller "
                "batches"
            )
        return EngineError(f"TensorRT failed in {self.path}: {reason}")

    def _take_messages(self) -> str:
        """Return TensorRT's messages, and clear them for the next failure."""
        words = self._messages.explain()
        self._messages.clear()
        return words

    def forget_messages(self) -> None:
        """Clear TensorRT's messages: they do not explain later failures."""
        self._messages.clear()

    def close(self) -> None:
        """Free the engine, after all of its contexts."""
        self._engine = None
        self._runtime = None


def _row(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape[1:] if size is not None)  # all are: see `_tensor`

"""ONNX Runtime engines, on the CPU or on a CUDA GPU.

On the CPU a session has one thread, and one call a core runs at the same time. Measured on
2 cores at batch 1, this is a third faster than one call on all cores for a small model (2,491
against 1,941 images/s) and as fast for a ViT-B-16, and no thread spins while pictures are
decoded. On a CPU, batches gain little, and large batches are slower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.errors import DependencyError, EngineError, EngineMismatchError, GpuLostError
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.settings import cores
from clipfleet.workers.engines.base import (
    Array,
    Engine,
    Progress,
    batches,
    checked_inputs,
    no_progress,
)
from clipfleet.workers.engines.onnx_files import check_onnx_files

Provider = Literal["auto", "cpu", "cuda"]

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
# Not TF32: it would round the factors of a float32 engine's products to 10 bits.
_CUDA_OPTIONS = {"use_tf32": 0}

# Items a call on the CPU, for engines that take any number. One thread's ms an item at 1, 4, 8
# and 32: images (ViT-B-16) 185, 190, 199, 225; texts (4 layers, width 768) 20, 15.6, 15.3, 17.
_CPU_BATCH: dict[Tower, int] = {"img": 4, "txt": 8}
_ERRORS_ONLY = 3  # ONNX Runtime's log severity
# CUDA's messages and names of errors after which each later call of the process fails, or the GPU
# is lost. ONNX Runtime passes on one or the other. The names are those in `cuda.errors`.
_LOST = re.compile(
    r"illegal memory access|illegal instruction|misaligned address|invalid program counter"
    r"|operation not supported on global/shared|hardware stack error|unspecified launch failure"
    r"|launch timed out|device-side assert|uncorrectable|no CUDA-capable device"
    r"|CUDA-capable device\(s\) is/are busy or unavailable|device (?:is |was )?lost"
    r"|fallen off the bus|context is destroyed|driver shutting down"
    r"|CUDA failure \d+: (?:unknown|initialization) error"
    r"|cudaError(?:IllegalAddress|IllegalInstruction|MisalignedAddress|InvalidPc"
    r"|InvalidAddressSpace|HardwareStackError|LaunchFailure|LaunchTimeout|Assert|ECCUncorrectable"
    r"|NvlinkUncorrectable|NoDevice|DevicesUnavailable|ContextIsDestroyed|CudartUnloading|Unknown"
    r"|InitializationError)",
    re.IGNORECASE,
)
_DTYPES = {  # ONNX Runtime's names to NumPy's
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxEngine(Engine):
    """A tower in an ONNX Runtime session."""

    def __init__(
        self,
        card: ModelCard,
        engine_path: Path,
        *,
        provider: Provider = "auto",
        threads: int = 0,
        max_batch: int = 32,
    ) -> None:
        """Load an engine file and check it against its card.

        With `threads` 0 there are as many as this process has cores. `max_batch` is for engines
        of any batch size; other engines have their card's.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: The file is not the card's, does not load, or the provider does not work.
            GpuLostError: The GPU is lost.
            EngineMismatchError: The names, shapes or dtypes are not the card's.
        """
        check_onnx_files(card, engine_path)
        self.card = card
        self.max_batch = card.batch_size or max_batch
        self._session = _session(engine_path, provider)
        _check_tensor("input", self._session.get_inputs(), card.input, engine_path)
        _check_tensor("output", self._session.get_outputs(), card.output, engine_path)
        on_cpu = self.provider == CPU_PROVIDER
        self._piece = card.batch_size or (
            min(max_batch, _CPU_BATCH[card.tower]) if on_cpu else max_batch
        )
        self._calls = ThreadPoolExecutor(
            threads or cores() if on_cpu else 1, thread_name_prefix="onnx"
        )

    @property
    def provider(self) -> str:
        """The name of the execution provider that runs the engine."""
        return str(self._session.get_providers()[0])

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Return the features of n inputs, float32 (n, D).

        Raises:
            EngineError: The inputs do not match the card, or ONNX Runtime failed.
            GpuLostError: The GPU is lost; this process must end.
        """
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        self.run_stream([inputs], features, no_progress)
        return features

    def run_stream(
        self, inputs: Iterable[Array], features: NDArray[np.float32], progress: Progress
    ) -> int:
        """Run one array of inputs after the other; see `Engine.run_stream`.

        `progress` is called after each call of ONNX Runtime: a person waits seconds for an array
        on a CPU.

        Raises:
            EngineError, GpuLostError: As in a call.
        """
        start = 0
        for given in inputs:
            for piece in self._features(given):
                features[start : start + len(piece)] = piece
                start += len(piece)
                progress(len(piece))
        return start

    def _features(self, inputs: Array) -> Iterator[Array]:
        """Yield the features of inputs, those of a call at a time, in order."""
        inputs = checked_inputs(inputs, self.card)
        pieces = batches(inputs, self._piece, padded=self.card.batch_size is not None)
        yield from self._calls.map(self._run, pieces)

    def _run(self, piece: tuple[Array, int]) -> Array:
        batch, count = piece
        try:
            output: Array = self._session.run(
                [self.card.output.name], {self.card.input.name: batch}
            )[0]
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            message = f"ONNX Runtime failed in {self.card.engine}: {error}"
            raise _failure(message, on_cuda=self.provider == CUDA_PROVIDER) from error
        return output[:count]

    def close(self) -> None:
        """Free the session; the engine cannot be called any more."""
        self._calls.shutdown()
        self._session = None


def _failure(message: str, *, on_cuda: bool) -> EngineError:
    if on_cuda and _LOST.search(message):
        return GpuLostError(
            f"{message}: this process cannot use the GPU any more; start it again, and if this "
            "comes back see nvidia-smi and the kernel's log (Xid)"
        )
    return EngineError(message)


def _session(path: Path, provider: Provider) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyError(
            f"ONNX engines need onnxruntime ({error}): from a checkout, pip install '.[cpu]', or "
            "'.[gpu]' for a GPU"
        ) from error
    offered = ort.get_available_providers()
    if provider == "cuda" and CUDA_PROVIDER not in offered:
        raise EngineError(
            f"provider is cuda, and this onnxruntime offers only {', '.join(offered)}: "
            "from a checkout, pip install '.[gpu]' where the CPU's onnxruntime is not installed"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    with_cuda = provider != "cpu" and CUDA_PROVIDER in offered
    if with_cuda and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN may be Python packages; the system's loader misses them
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[CUDA_PROVIDER, CPU_PROVIDER] if with_cuda else [CPU_PROVIDER],
            provider_options=[_CUDA_OPTIONS, {}] if with_cuda else [{}],
        )
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        message = f"ONNX Runtime cannot load {path}: {error}"
        raise _failure(message, on_cuda=with_cuda) from error
    if provider == "cuda" and session.get_providers()[0] != CUDA_PROVIDER:
        raise EngineError(
            f"provider is cuda, and ONNX Runtime fell back to {session.get_providers()[0]} for "
            f"{path}: its CUDA or cuDNN libraries do not load (see its messages above)"
        )
    return session


def _check_tensor(role: str, tensors: list[Any], spec: TensorSpec, path: Path) -> None:
    named = {tensor.name: tensor for tensor in tensors}
    if spec.name not in named or (role == "input" and len(named) > 1):
        raise EngineMismatchError(
            f"{path} has the {role}s {', '.join(map(repr, named))}: its card says {spec.name!r}"
        )
    tensor = named[spec.name]
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    dtype = _DTYPES.get(tensor.type, tensor.type)
    if shape != tuple(spec.shape) or dtype != spec.dtype:
        raise EngineMismatchError(
            f"{role} {spec.name!r} of {path} is {dtype} {shape}: "
            f"its card says {spec.dtype} {tuple(spec.shape)}"
        )

"""ONNX Runtime engines, on the CPU or on a CUDA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipfleet.card import ModelCard, TensorSpec, sha256_of
from clipfleet.errors import DependencyError, EngineError, EngineMismatchError
from clipfleet.settings import cores
from workers.engines.base import Array, Engine
from workers.engines.inputs import batches, checked_inputs

Provider = Literal["auto", "cpu", "cuda"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_DTYPES = {  # ONNX Runtime's names, and NumPy's
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

        `threads` 0 means as many as this process has cores. `max_batch` is for engines
        that take any batch size; others take their card's.

        Raises:
            DependencyError: onnxruntime is not installed.
            EngineError: The file is not the card's, does not load, or the provider does not work.
            EngineMismatchError: The names, shapes or dtypes are not the card's.
        """
        self.card = card
        self.max_batch = card.batch_size or max_batch
        check_files(card, engine_path)
        self._session = _session(engine_path, provider, threads or cores())
        _check_tensor("input", self._session.get_inputs(), card.input, engine_path)
        _check_tensor("output", self._session.get_outputs(), card.output, engine_path)

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs the engine."""
        return str(self._session.get_providers()[0])

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        inputs = checked_inputs(inputs, self.card)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        start = 0
        padded = self.card.batch_size is not None
        for batch, count in batches(inputs, self.max_batch, padded=padded):
            features[start : start + count] = self._run(batch)[:count]
            start += count
        return features

    def _run(self, batch: Array) -> Array:
        feeds = {self.card.input.name: batch}
        output: Array = self._session.run([self.card.output.name], feeds)[0]
        return output

    def close(self) -> None:
        """Free the session."""
        self._session = None


def check_files(card: ModelCard, engine_path: Path) -> None:
    """Check an engine file, and its extra file, against the card's SHA-256.

    Raises:
        EngineError: A file is missing, or is not the card's.
    """
    files = [(engine_path, card.engine_sha256)]
    if card.extra_file is not None:
        files.append((engine_path.parent / card.extra_file, card.extra_file_sha256 or ""))
    for path, expected in files:
        if not path.is_file():
            raise EngineError(f"engine file {path} is missing: move an engine with its extra file")
        actual = sha256_of(path)
        if actual != expected:
            raise EngineError(
                f"{path} has SHA-256 {actual}, and its card says {expected or 'none'}: it is "
                "another file or is damaged; convert it again, or copy both anew"
            )


def _session(path: Path, provider: Provider, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyError(
            "ONNX engines need onnxruntime: pip install 'clipfleet[cpu]', or 'clipfleet[gpu]'"
        ) from error
    offered = ort.get_available_providers()
    if provider == "cuda" and _CUDA not in offered:
        raise EngineError(
            f"provider is cuda, and this onnxruntime offers only {', '.join(offered)}: "
            "pip install onnxruntime-gpu in place of onnxruntime"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    wanted = [_CPU] if provider == "cpu" or _CUDA not in offered else [_CUDA, _CPU]
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # its exceptions share no other base
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
    if provider == "cuda" and session.get_providers()[0] != _CUDA:
        raise EngineError(
            f"provider is cuda, and ONNX Runtime fell back to {session.get_providers()[0]} for "
            f"{path}: its CUDA or cuDNN libraries do not load (`clipfleet doctor` says more)"
        )
    return session


def _check_tensor(role: str, tensors: list[Any], spec: TensorSpec, path: Path) -> None:
    named = {tensor.name: tensor for tensor in tensors}
    if spec.name not in named or (role == "input" and len(named) > 1):
        raise EngineMismatchError(
            f"{path} has the {role}s {', '.join(map(repr, named))}: its card names {spec.name!r}"
        )
    tensor = named[spec.name]
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    dtype = _DTYPES.get(tensor.type, tensor.type)
    if shape != tuple(spec.shape) or dtype != spec.dtype:
        raise EngineMismatchError(
            f"{role} {spec.name!r} of {path} is {dtype} {shape}: "
            f"its card says {spec.dtype} {tuple(spec.shape)}"
        )

"""From a file and its card to a TensorRT engine that may run here."""

from __future__ import annotations

from pathlib import Path

from clipfleet.errors import EngineMismatchError, EngineUnverifiedError
from clipfleet.model_card import ModelCard, TensorSpec, read_engine
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.tensorrt.check_compatible import check_fit
from clipfleet.workers.engines.tensorrt.compat import load_tensorrt
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile


def open_engine(card: ModelCard | None, path: Path, *, allow_unverified: bool) -> EngineFile:
    """Return an engine that is its card's, fits this machine, and is proven unless that is waived.

    Raises:
        DependencyError: TensorRT or cuda-bindings is not installed.
        EngineUnverifiedError: Its card does not prove it here, or it has none, and must.
        EngineError: The file, the machine or the engine is not what the card says.
    """
    if card is None and not allow_unverified:
        raise EngineUnverifiedError(
            f"{path} has no card that proves it: verify it and write one with "
            f"`clipfleet adopt {path}`, or allow unverified engines"
        )
    data = read_engine(path, card)
    gpu = cuda.device_name()  # before TensorRT, which ends the process where there is no GPU
    trt = load_tensorrt()
    if card is not None:
        version = str(trt.__version__)
        check_fit(card, gpu=gpu, runtime_version=version, allow_unverified=allow_unverified)
    file = EngineFile(trt, path, data)
    if card is not None:
        try:
            _check_tensor("input", file.input, card.input, path)
            _check_tensor("output", file.output, card.output, path)
        except BaseException:
            file.close()
            raise
    return file


def _check_tensor(role: str, found: TensorSpec, said: TensorSpec, path: Path) -> None:
    """Check an engine's input or output against its card's.

    Raises:
        EngineMismatchError: The name, shape or dtype is another.
    """
    if found != said:
        raise EngineMismatchError(
            f"{role} of {path} is {found.name!r}, {found.dtype} {tuple(found.shape)}: its card "
            f"says {said.name!r}, {said.dtype} {tuple(said.shape)}; take the card that was "
            "written with the engine"
        )

"""Open a TensorRT engine file, after checks against its card and this machine."""

from __future__ import annotations

from pathlib import Path

from clipfleet.engine_files import read_engine
from clipfleet.errors import EngineMismatchError, EngineUnverifiedError
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.tensorrt.check_compatible import check_compatible
from clipfleet.workers.engines.tensorrt.compat import load_tensorrt, warn_if_untested
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile


def open_engine(card: ModelCard | None, path: Path, *, allow_unverified: bool) -> EngineFile:
    """Return an engine that matches its card, this machine, and, unless waived, is verified.

    Raises:
        DependencyError: TensorRT or cuda-bindings is not installed.
        EngineUnverifiedError: The engine has no card, or its card does not verify it here; not
            raised with `allow_unverified`.
        EngineError: The file, the machine or the engine does not match the card.
    """
    if card is None and not allow_unverified:
        raise EngineUnverifiedError(
            f"{path} has no card that proves it: verify it and write one with "
            f"`clipfleet adopt {path}`, or allow unverified engines"
        )
    data = read_engine(path, card)
    gpu = cuda.device_name()  # first, for TensorRT ends the process if there is no GPU
    trt = load_tensorrt()
    warn_if_untested(trt)
    if card is not None:
        version = str(trt.__version__)
        check_compatible(card, gpu=gpu, runtime_version=version, allow_unverified=allow_unverified)
    file = EngineFile(trt, path, data)
    if card is not None:
        try:
            _check_tensor("input", file.input, card.input, path)
            _check_tensor("output", file.output, card.output, path)
        except BaseException:
            file.close()
            raise
    return file


def _check_tensor(role: str, found: TensorSpec, expected: TensorSpec, path: Path) -> None:
    """Check an engine's input or output against its card's.

    Raises:
        EngineMismatchError: The name, shape or dtype is another.
    """
    if found != expected:
        raise EngineMismatchError(
            f"{role} of {path} is {found.name!r}, {found.dtype} {tuple(found.shape)}: its card "
            f"says {expected.name!r}, {expected.dtype} {tuple(expected.shape)}; take the card "
            "that was written with the engine"
        )

"""From a file and its card to a TensorRT engine that may run here."""

from __future__ import annotations

from pathlib import Path

from clipfleet.card import ModelCard, check_files
from clipfleet.errors import EngineUnverifiedError
from workers.engines import cuda
from workers.engines.tensorrt_checks import Place, check_parity, check_place, check_tensor
from workers.engines.tensorrt_file import EngineFile
from workers.engines.tensorrt_versions import load_tensorrt


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
    if card is not None:
        check_files(card, path)
    gpu = cuda.device_name()  # before TensorRT, which ends the process where there is no GPU
    trt = load_tensorrt()
    if card is not None:
        place = Place(runtime_version=str(trt.__version__), gpu=gpu)
        check_place(card, path, place)
        if not allow_unverified:
            check_parity(card, path, place)
    file = EngineFile(trt, path)
    if card is not None:
        try:
            check_tensor("input", file.input, card.input, path)
            check_tensor("output", file.output, card.output, path)
        except BaseException:
            file.close()
            raise
    return file

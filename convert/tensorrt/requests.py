"""The engines of a command line: their ONNX files, precisions and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.errors import UsageError
from clipfleet.model_card import CARD_SUFFIX, ModelCard, Precision, load_card

ENGINE_SUFFIX = ".trt"
_ONNX_SUFFIX = ".onnx"


def asked_precisions(*, fp32: bool, fp16: bool) -> list[Precision]:
    """Return the precisions of the flags; an empty list means the ONNX file's own."""
    asked: list[tuple[Precision, bool]] = [("fp32", fp32), ("fp16", fp16)]
    return [precision for precision, wanted in asked if wanted]


def load_onnx(path: str | Path) -> tuple[ModelCard, Path]:
    """Return the card and the path of an ONNX engine; `path` is either of both files.

    Raises:
        CardError: There is no card.
        UsageError: It is another runtime's engine.
    """
    if Path(path).name.removesuffix(CARD_SUFFIX).endswith(ENGINE_SUFFIX):
        raise UsageError(f"{path} is a TensorRT engine already: name the ONNX file to build from")
    card, onnx = load_card(path)
    if card.runtime != "onnxruntime":
        raise UsageError(f"{onnx} is a {card.runtime} engine: name the ONNX file to build from")
    return card, onnx


def engine_name(prefix: Path, tower: Tower, precision: Precision) -> Path:
    """Return where an engine lies, as the original names it: `<prefix>.img.fp16.trt`."""
    return prefix.with_name(f"{prefix.name}.{tower}.{precision}{ENGINE_SUFFIX}")


def engine_beside(card: ModelCard, onnx: Path, precision: Precision) -> Path:
    """Return where the engine of an ONNX file lies by default: beside it, named like it.

    `x.img.fp32.onnx` gives `x.img.fp32.trt` and `x.img.fp16.trt`, and a name without these
    parts, `x.onnx`, gives `x.trt` in its own precision.
    """
    stem = onnx.name.removesuffix(_ONNX_SUFFIX)
    parts = f".{card.tower}.{card.precision}"
    if stem.endswith(parts):
        return engine_name(onnx.with_name(stem.removesuffix(parts)), card.tower, precision)
    suffix = "" if precision == card.precision else f".{precision}"
    return onnx.with_name(f"{stem}{suffix}{ENGINE_SUFFIX}")


def build_engines(
    onnx_files: Sequence[Path],
    *,
    prefix: Path | None,
    precisions: Sequence[Precision],
    build: Callable[..., tuple[ModelCard, Path]],
) -> list[tuple[ModelCard, Path]]:
    """Call `build`, which is `build_engine` with its options, for each file and precision.

    Without a prefix an engine lies beside its ONNX; without a precision it has the ONNX's.

    Raises:
        UsageError: A file is not an ONNX engine; no engine was built.
    """
    sources = [load_onnx(path) for path in onnx_files]
    built = []
    for card, path in sources:
        for precision in precisions or (card.precision,):
            name = (
                engine_name(prefix, card.tower, precision)
                if prefix
                else engine_beside(card, path, precision)
            )
            built.append(build(path, engine=name, precision=precision))
    return built


@contextmanager
def naming_file_errors() -> Iterator[None]:
    """Raise UsageError where a file or a folder cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot read or write {error.filename or 'a file'} ({error.strerror or error}): see "
            "its permissions and the free space"
        ) from error

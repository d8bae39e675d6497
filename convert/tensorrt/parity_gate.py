"""The parity gate of TensorRT engines: each is run against its float32 ONNX before it is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clipfleet.convert.gate import Check, Gate, gate_check
from clipfleet.convert.parity import Features, verify_engine, verify_inputs
from clipfleet.errors import EngineMismatchError, UsageError
from clipfleet.model_card import (
    BatchProfile,
    MeasuredOn,
    ModelCard,
    Parity,
    TensorSpec,
    load_card,
)
from clipfleet.workers.engines.onnx import OnnxEngine

_REMAINDER = 3  # items; not a power of two, so the batch is padded
_REFERENCE_BATCH = 4  # items at once, where the reference takes any number
_IDS = ("int32", "int64")  # TensorRT 8 makes int32 of the ONNX file's int64


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The expected result of an engine: real inputs and their float32 features."""

    card: ModelCard
    name: str
    inputs: NDArray[Any]  # (n, …) as the card's input
    features: Features  # float32 (n, D)
    check: Check  # the recall gate


def find_reference(card: ModelCard, onnx: Path, given: Path | None) -> tuple[ModelCard, Path]:
    """Return the float32 ONNX that an engine of `onnx` is compared with: given, or beside it.

    Raises:
        UsageError: There is none, or it is not of the same weights.
    """
    path = given or sibling(onnx, card.precision, "fp32")
    if not path.is_file():
        raise UsageError(
            f"no float32 ONNX at {path} to compare the engine with: convert with "
            "`--precision fp32` as well, or name one with --reference"
        )
    reference, reference_path = load_card(path)
    wanted = (card.tower, card.checkpoint_sha256, card.input.shape[1:], card.output.shape[1:])
    found = (
        reference.tower,
        reference.checkpoint_sha256,
        reference.input.shape[1:],
        reference.output.shape[1:],
    )
    check_is_reference(reference, reference_path)
    if wanted != found:
        raise UsageError(
            f"reference {reference_path} is of another model or size than {onnx}: tower, "
            f"checkpoint SHA-256, input and output are {found}, expected {wanted}"
        )
    return reference, reference_path


def check_is_reference(card: ModelCard, path: Path) -> None:
    """Check that a card is of a float32 ONNX engine.

    Raises:
        UsageError: It is not.
    """
    if card.runtime != "onnxruntime" or card.precision != "fp32":
        raise UsageError(
            f"reference {path} is a {card.precision} engine of {card.runtime}: "
            "the float32 ONNX is expected"
        )


def sibling(onnx: Path, precision: str, wanted: str) -> Path:
    """Return where the same tower in another precision lies, by the files' names."""
    if precision == wanted:
        return onnx
    if f".{precision}." in onnx.name:
        return onnx.with_name(onnx.name.replace(f".{precision}.", f".{wanted}."))
    return onnx.with_name(f"{onnx.stem}.{wanted}{onnx.suffix}")


def compute_reference(
    card: ModelCard,
    path: Path,
    *,
    images: Path | None,
    texts: Path | None,
    gate: Gate | None = None,
) -> Reference:
    """Run the float32 ONNX on the CPU, on the samples or on the user's own items.

    Raises:
        EngineError: The ONNX is not its card's, or does not run.
        SourceError: There is nothing to verify with.
    """
    import onnxruntime

    size = card.resolution if card.tower == "img" else card.context_length
    inputs = verify_inputs(card.tower, size, images=images, texts=texts)
    with OnnxEngine(card, path, provider="cpu", max_batch=_REFERENCE_BATCH) as engine:
        features = engine(inputs)
        check = gate_check(gate, card.tower, size, engine)
    name = f"onnxruntime {onnxruntime.__version__} float32, {path.name} on the CPU"
    return Reference(card=card, name=name, inputs=inputs, features=features, check=check)


def check_tensors(
    engine_path: Path, source: TensorSpec, target: TensorSpec, reference: ModelCard
) -> None:
    """Check that an engine's input and output are the reference's, but for the batch size.

    Raises:
        EngineMismatchError: A name, a size or a dtype is another.
    """
    for role, found, expected in (
        ("input", source, reference.input),
        ("output", target, reference.output),
    ):
        dtypes = _IDS if expected.dtype in _IDS else (expected.dtype,)
        same = found.name == expected.name and found.shape[1:] == tuple(expected.shape[1:])
        if not same or found.dtype not in dtypes:
            raise EngineMismatchError(
                f"{role} of {engine_path} is {found.name!r} {found.dtype} {found.shape}: expected "
                f"{expected.name!r} {' or '.join(dtypes)} (n, "
                f"{', '.join(map(str, expected.shape[1:]))}) as in {reference.engine}"
            )


def verify_tensorrt_engine(card: ModelCard, engine_path: Path, reference: Reference) -> Parity:
    """Run an engine on the reference's inputs, in every batch size that its calls are cut into.

    Raises:
        EngineError: The engine does not load or run.
        VerificationError: It strays too far from the reference, or fails the recall gate.
    """
    from clipfleet.workers.engines.tensorrt.engine import TensorRTEngine

    with TensorRTEngine(card, engine_path, contexts=1, allow_unverified=True) as engine:
        parity = verify_engine(
            engine,
            reference.inputs,
            reference.features,
            reference_name=reference.name,
            call_sizes=_call_sizes(card.profile),
        )
        parity = reference.check(engine, parity)
    return replace(parity, measured_on=measured_on(card))


def _call_sizes(profile: BatchProfile | None) -> list[int | None]:
    """Return the call sizes that verify an engine at every batch size in which it runs.

    A dynamic engine runs at its largest batch size and at the powers of two below it. The last
    call size leaves a remainder, which runs as a short batch.
    """
    if profile is None:
        return [None]
    smallest, largest = profile.smallest, profile.largest
    if smallest == largest:
        return [largest]
    powers = (1 << power for power in range(largest.bit_length()))
    sizes = {smallest, largest, *(size for size in powers if smallest <= size <= largest)}
    return [*sorted(sizes), largest + min(_REMAINDER, largest - 1)]


def measured_on(card: ModelCard) -> MeasuredOn:
    """Return the engine file, version and GPU of a card, with which its parity is measured."""
    return MeasuredOn(
        engine_sha256=card.engine_sha256,
        runtime_version=card.runtime_version,
        gpu=card.gpu or "",
    )

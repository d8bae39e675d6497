"""Convert a float32 ONNX file without its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import onnx_ir
import onnxruntime
from google.protobuf.message import DecodeError

from clipfleet.architectures import Architecture, Tower, load_architecture
from clipfleet.convert.export.float16 import convert_to_float16
from clipfleet.convert.export.tower import tower_specs
from clipfleet.convert.gate import Gate
from clipfleet.convert.parity import verify_engine
from clipfleet.convert.staging import (
    EXTRA_FILE_SUFFIX,
    publish_accepted,
    staging_folder,
    with_checksums,
)
from clipfleet.convert.tensorrt.parity_gate import Reference, check_is_reference, compute_reference
from clipfleet.errors import ConversionError, UsageError, VerificationError
from clipfleet.model_card import (
    ModelCard,
    Parity,
    Precision,
    TensorSpec,
    card_path,
    load_card,
)
from clipfleet.workers.engines.onnx import OnnxEngine
from clipfleet.workers.engines.onnx_files import check_onnx_files

_MAX_BATCH = 4  # items at once in verification, where the engine takes any number
_TOWERS: dict[str, Tower] = {"image": "img", "text": "txt"}  # by the input's name


def convert_onnx(  # noqa: PLR0913
    onnx: str | Path,
    *,
    architecture: str | Path | Architecture,
    save_prefix: str | Path,
    precisions: Sequence[Precision] = ("fp32", "fp16"),
    logit_scale: float | None = None,
    verify_images: Path | None = None,
    verify_texts: Path | None = None,
    gate: Gate | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[tuple[ModelCard, Path]]:
    """Make engines of a float32 ONNX file; return each engine's card with the card's path.

    The float32 engine is a copy of the file, and the float16 engine is converted from it. Both
    are compared with the file on the CPU. The file itself is only read. A card beside the file
    says which model it is. Without a card the file must have the original's input and output,
    `logit_scale` must be given, for an ONNX file does not hold it, and the SHA-256 of the
    weights stands for the checkpoint's.

    Raises:
        ConversionError: The file cannot be read as ONNX.
        EngineError: The file is not its card's, or does not run.
        UsageError: The file is no float32 tower of the architecture, or no logit scale is known.
        VerificationError: An engine strays too far from the file, or fails `gate`. Where it is
            the float16 engine, the float32 engine was written.
    """
    onnx, prefix = Path(onnx).absolute(), Path(save_prefix).absolute()
    progress = progress or _silent
    if not isinstance(architecture, Architecture):
        architecture = load_architecture(architecture)
    progress(f"reading {onnx}")
    graph = _read(onnx)
    source = _source_card(onnx, graph, architecture, logit_scale)
    progress(f"computing float32 features with {onnx.name}")
    reference = compute_reference(source, onnx, images=verify_images, texts=verify_texts, gate=gate)
    accepted: list[tuple[ModelCard, Path]] = []
    rejected: list[VerificationError] = []
    with staging_folder(prefix) as staging:
        name = f"{prefix.name}.{source.tower}"
        float32, float16 = staging / f"{name}.fp32.onnx", staging / f"{name}.fp16.onnx"
        progress(f"copying {onnx.name} to {float32.name}")
        card = _copy(graph, source, float32)
        if "fp32" in precisions:
            progress(f"verifying {float32.name}")
            parity = _verify(card, float32, reference)
            accepted.append((replace(card, parity=source.parity or parity), float32))
        if "fp16" in precisions:
            progress(f"converting {float32.name} to {float16.name}")
            convert_to_float16(float32, float16)
            card = with_checksums(replace(card, precision="fp16"), float16)
            progress(f"verifying {float16.name}")
            try:
                accepted.append((replace(card, parity=_verify(card, float16, reference)), float16))
            except VerificationError as error:
                rejected.append(error)
        return publish_accepted(accepted, rejected, prefix.parent)


def _silent(_: str) -> None:
    """Report no progress."""


def _read(path: Path) -> onnx_ir.Model:
    """Return an ONNX file's graph; its weights are read when they are used."""
    if not path.is_file():
        raise UsageError(f"no ONNX file at {path}")
    try:
        return onnx_ir.load(path)
    except (DecodeError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read as an ONNX model: {error}") from error


def _source_card(
    path: Path, graph: onnx_ir.Model, architecture: Architecture, logit_scale: float | None
) -> ModelCard:
    """Return the card beside a float32 ONNX file, or one made from the file."""
    if card_path(path).is_file():
        card, _ = load_card(path)
        check_is_reference(card, path)
        check_onnx_files(card, path)
        if card.architecture != architecture.name:
            raise UsageError(f"{path} is of {card.architecture}, not of {architecture.name}")
        if logit_scale not in (None, card.logit_scale):
            raise UsageError(
                f"--logit-scale is {logit_scale}: the card of {path} says {card.logit_scale}"
            )
        return replace(card, runtime_version=onnxruntime.__version__, created_at=_now())
    if logit_scale is None:
        raise UsageError(
            f"{path} has no model card, and an ONNX file does not hold the logit scale: give "
            "--logit-scale (4.6052 in the published checkpoints)"
        )
    tower, source, target = _checked_tensors(path, graph, architecture)
    card = ModelCard(
        architecture=architecture.name,
        tower=tower,
        runtime="onnxruntime",
        precision="fp32",
        engine=path.name,
        engine_sha256="",
        input=source,
        output=target,
        logit_scale=logit_scale,
        checkpoint_sha256="",  # known when the weights are copied
        runtime_version=onnxruntime.__version__,
        created_at=_now(),
    )
    return with_checksums(card, path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _checked_tensors(
    path: Path, graph: onnx_ir.Model, architecture: Architecture
) -> tuple[Tower, TensorSpec, TensorSpec]:
    """Return a graph's tower, input and output, which must be the architecture's."""
    inputs, outputs = map(_specs, (graph.graph.inputs, graph.graph.outputs))
    names = [spec.name for spec in inputs]
    tower = _TOWERS.get(names[0]) if len(names) == 1 else None
    if tower is None:
        raise UsageError(f"{path} has the inputs {names}: expected one, 'image' or 'text'")
    shape = inputs[0].shape
    wanted = tower_specs(
        architecture,
        tower,
        batch_size=shape[0] if shape else None,
        context_length=(tower == "txt" and shape[-1]) or architecture.context_length,
    )
    found = (*inputs, *outputs)
    if found != wanted:
        raise UsageError(
            f"{path} is no float32 tower of {architecture.name}: its input and output are "
            f"{_described(found)}, expected {_described(wanted)}"
        )
    if any(
        weights.dtype == onnx_ir.DataType.FLOAT16 for weights in graph.graph.initializers.values()
    ):
        raise UsageError(f"{path} has float16 weights: name the float32 file")
    return tower, *wanted


def _specs(values: Sequence[onnx_ir.Value]) -> list[TensorSpec]:
    return [
        TensorSpec(
            name=value.name or "",
            shape=tuple(n if isinstance(n, int) else None for n in value.shape or ()),
            dtype=str(value.dtype.numpy()) if value.dtype else "",
        )
        for value in values
    ]


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec.dtype} {spec.shape}" for spec in specs)


def _copy(graph: onnx_ir.Model, source: ModelCard, path: Path) -> ModelCard:
    """Write a graph to `path` and its weights to `path.extra_file`; return the copy's card."""
    onnx_ir.save(graph, path, external_data=path.name + EXTRA_FILE_SUFFIX)
    card = with_checksums(source, path)
    weights = card.extra_file_sha256 or card.engine_sha256
    return replace(card, checkpoint_sha256=card.checkpoint_sha256 or weights)


def _verify(card: ModelCard, path: Path, reference: Reference) -> Parity:
    with OnnxEngine(card, path, provider="cpu", max_batch=_MAX_BATCH) as engine:
        parity = verify_engine(
            engine, reference.inputs, reference.features, reference_name=reference.name
        )
        return reference.check(engine, parity)

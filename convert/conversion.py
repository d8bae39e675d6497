"""Convert a checkpoint to ONNX engines, and verify them against float32 PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from clipfleet.architectures import TOWERS, Architecture, Tower, load_architecture
from clipfleet.convert.checkpoints.download import published_checkpoint
from clipfleet.convert.checkpoints.load import Checkpoint, build_model, load_checkpoint
from clipfleet.convert.export.reference import TORCH_REFERENCE, reference_features
from clipfleet.convert.export.tower import export_tower, fold_batch_norms, tower_specs
from clipfleet.convert.gate import Gate, gate_check
from clipfleet.convert.model.chinese_clip import ChineseClip, halve
from clipfleet.convert.parity import verify_engine, verify_inputs
from clipfleet.convert.staging import publish_accepted, staging_folder, with_checksums
from clipfleet.errors import UsageError, VerificationError
from clipfleet.model_card import ModelCard, Precision
from clipfleet.workers.engines.onnx import OnnxEngine

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")

_MAX_BATCH = 4  # items at once in verification, where the engine takes any number

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A request: the checkpoint, the files to write, and the items to verify them with."""

    architecture: Architecture
    checkpoint: Checkpoint
    save_prefix: Path
    towers: tuple[Tower, ...]
    precisions: tuple[Precision, ...]
    batch_size: int | None  # None: any
    context_length: int
    verify_images: Path | None
    verify_texts: Path | None
    gate: Gate | None
    progress: Progress

    def engine_name(self, tower: Tower, precision: Precision) -> str:
        return f"{self.save_prefix.name}.{tower}.{precision}.onnx"


def convert(  # noqa: PLR0913
    *,
    architecture: str | Path | Architecture,
    save_prefix: str | Path,
    checkpoint: str | Path | None = None,
    towers: Sequence[Tower] = TOWERS,
    precisions: Sequence[Precision] = PRECISIONS,
    batch_size: int | None = 1,
    context_length: int | None = None,
    download_root: str | Path | None = None,
    verify_images: str | Path | None = None,
    verify_texts: str | Path | None = None,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> list[tuple[ModelCard, Path]]:
    """Convert a checkpoint's towers to ONNX and return each engine's card with the card's path.

    Without `checkpoint`, the published one is downloaded to `download_root`. `batch_size`
    None makes engines that take any number of items. `progress` is called with a line for
    each step. Until every engine is built and verified, nothing changes under `save_prefix`.
    A float16 engine that strays is not written; the engines that passed are.

    Raises:
        UsageError: No tower or precision, or an impossible batch size or context length.
        CheckpointError: The checkpoint does not hold the architecture's weights.
        VerificationError: An engine strays too far from float32 PyTorch, or fails `gate`. Where it
            is a float16 engine, the engines that passed were written.
        StorageError: The published checkpoint cannot be downloaded.
    """
    if not isinstance(architecture, Architecture):
        architecture = load_architecture(architecture)
    length = context_length or architecture.context_length
    _check_request(architecture, towers, precisions, batch_size, length)
    progress = progress or _silent
    if checkpoint is None:
        progress(f"looking for the published checkpoint of {architecture.name}")
        checkpoint = published_checkpoint(architecture, download_root)
    progress(f"reading {checkpoint}")
    conversion = Conversion(
        architecture=architecture,
        checkpoint=load_checkpoint(checkpoint, architecture),
        save_prefix=Path(save_prefix).absolute(),
        towers=tuple(dict.fromkeys(towers)),
        precisions=tuple(p for p in PRECISIONS if p in precisions),
        batch_size=batch_size,
        context_length=length,
        verify_images=Path(verify_images) if verify_images else None,
        verify_texts=Path(verify_texts) if verify_texts else None,
        gate=gate,
        progress=progress,
    )
    folder = conversion.save_prefix.parent
    with staging_folder(conversion.save_prefix) as staging:
        rejected: list[VerificationError] = []
        accepted = [
            engine
            for tower in conversion.towers
            for engine in _convert_tower(conversion, tower, staging, rejected)
        ]
        return publish_accepted(accepted, rejected, folder)


def _silent(_: str) -> None:
    """Report no progress."""


def _check_request(
    architecture: Architecture,
    towers: Sequence[Tower],
    precisions: Sequence[Precision],
    batch_size: int | None,
    context_length: int,
) -> None:
    if not towers or not set(towers) <= set(TOWERS):
        raise UsageError(f"towers are {list(towers)}: expected one or both of {list(TOWERS)}")
    if not precisions or not set(precisions) <= set(PRECISIONS):
        raise UsageError(
            f"precisions are {list(precisions)}: expected one or both of {list(PRECISIONS)}"
        )
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size is {batch_size}: expected at least 1, or none for any")
    longest = architecture.text.max_positions
    if not 3 <= context_length <= longest:
        raise UsageError(
            f"context length is {context_length}: {architecture.name} takes 3 to {longest} tokens"
        )


def _convert_tower(
    conversion: Conversion, tower: Tower, staging: Path, rejected: list[VerificationError]
) -> Iterator[tuple[ModelCard, Path]]:
    """Yield the verified engines of a tower, which lie in `staging`, with their cards.

    The error of a float16 engine that strays is appended to `rejected`.
    """
    size = conversion.architecture.resolution if tower == "img" else conversion.context_length
    inputs = verify_inputs(
        tower,
        size,
        images=conversion.verify_images,
        texts=conversion.verify_texts,
    )
    model = _tower_model(conversion, tower)
    conversion.progress(f"computing float32 features of {len(inputs)} items ({tower})")
    reference = reference_features(model, tower, inputs)
    check = gate_check(
        conversion.gate, tower, size, lambda sample: reference_features(model, tower, sample)
    )
    fold_batch_norms(model)
    for precision in conversion.precisions:
        if precision == "fp16":
            halve(model)
        path = staging / conversion.engine_name(tower, precision)
        conversion.progress(f"exporting {path.name}")
        card = _export(conversion, model, tower, precision, path)
        conversion.progress(f"verifying {path.name}")
        try:
            with OnnxEngine(card, path, provider="cpu", max_batch=_MAX_BATCH) as engine:
                parity = verify_engine(engine, inputs, reference, reference_name=TORCH_REFERENCE)
                parity = check(engine, parity)
        except VerificationError as error:
            if precision == "fp32":
                raise
            rejected.append(error)
        else:
            yield replace(card, parity=parity), path


def _tower_model(conversion: Conversion, tower: Tower) -> ChineseClip:
    """The float32 model without the other tower, whose memory is not needed."""
    model = build_model(conversion.checkpoint, conversion.architecture)
    if tower == "img":
        del model.bert
    else:
        del model.visual
    return model


def _export(
    conversion: Conversion, model: ChineseClip, tower: Tower, precision: Precision, path: Path
) -> ModelCard:
    import onnxruntime

    source, target = tower_specs(
        conversion.architecture,
        tower,
        batch_size=conversion.batch_size,
        context_length=conversion.context_length,
    )
    export_tower(model, tower, path, source=source, target=target)
    card = ModelCard(
        architecture=conversion.architecture.name,
        tower=tower,
        runtime="onnxruntime",
        precision=precision,
        engine=path.name,
        engine_sha256="",
        input=source,
        output=target,
        logit_scale=conversion.checkpoint.logit_scale,
        checkpoint_sha256=conversion.checkpoint.sha256,
        runtime_version=onnxruntime.__version__,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return with_checksums(card, path)

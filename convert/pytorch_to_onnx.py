"""From a checkpoint to ONNX engines that are proven against float32 PyTorch.

    python -m convert.pytorch_to_onnx --model-arch ViT-B-16 --save-onnx-path models/vit-b-16 \
        --convert-text --convert-vision
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from clipfleet.card import ModelCard, Precision
from clipfleet.errors import ClipfleetError, UsageError
from clipfleet.models import TOWERS, Architecture, Tower, architecture_names, load_architecture
from convert.checkpoints import Checkpoint, build_model, load_checkpoint
from convert.chinese_clip import ChineseClip, halve
from convert.download import published_checkpoint
from convert.export import export_tower, fold_batch_norms, tower_specs
from convert.guide import TERMINATED, TOWER_NAMES, WRONG_USE, say
from convert.reference import TORCH_REFERENCE, reference_features
from convert.staging import EXTRA_FILE_SUFFIX, publish, staging_folder, with_checksums
from convert.verify import MAX_ITEMS, verify_engine, verify_inputs
from workers.engines.onnx import OnnxEngine

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")

_MAX_BATCH = 4  # items at once in verification, where the engine takes any number

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is converted, how, and what it is verified with."""

    architecture: Architecture
    checkpoint: Checkpoint
    save_prefix: Path
    towers: tuple[Tower, ...]
    precisions: tuple[Precision, ...]
    batch_size: int | None  # None: any
    context_length: int
    verify_images: Path | None
    verify_texts: Path | None
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
    progress: Progress | None = None,
) -> list[tuple[ModelCard, Path]]:
    """Convert a checkpoint's towers to ONNX and return each engine's card with the card's path.

    Without `checkpoint`, the published one is downloaded to `download_root`. `batch_size`
    None makes engines that take any number of items. `progress` is told each step. Until
    every engine is built and verified, nothing changes under `save_prefix`.

    Raises:
        UsageError: No tower or precision, or an impossible batch size or context length.
        CheckpointError: The checkpoint does not hold the architecture's weights.
        VerificationError: An engine strays too far from float32 PyTorch.
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
        progress=progress,
    )
    folder = conversion.save_prefix.parent
    with staging_folder(conversion.save_prefix) as staging:
        verified = [
            engine
            for tower in conversion.towers
            for engine in _convert_tower(conversion, tower, staging)
        ]
        return [(card, publish(card, staged, folder)) for card, staged in verified]


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
    conversion: Conversion, tower: Tower, staging: Path
) -> Iterator[tuple[ModelCard, Path]]:
    """Yield the verified engines of a tower, which lie in `staging`, with their cards."""
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
    fold_batch_norms(model)
    for precision in conversion.precisions:
        if precision == "fp16":
            halve(model)
        path = staging / conversion.engine_name(tower, precision)
        conversion.progress(f"exporting {path.name}")
        card = _export(conversion, model, tower, precision, path)
        conversion.progress(f"verifying {path.name}")
        with OnnxEngine(card, path, provider="cpu", max_batch=_MAX_BATCH) as engine:
            parity = verify_engine(engine, inputs, reference, reference_name=TORCH_REFERENCE)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert.pytorch_to_onnx",
        description="Convert a Chinese-CLIP checkpoint to ONNX, in float32 and in float16.",
    )
    add = parser.add_argument
    add(
        "--model-arch",
        required=True,
        help=f"{', '.join(architecture_names())}, or the path of an architecture's JSON file",
    )
    add("--pytorch-ckpt-path", type=Path, help="the checkpoint (default: download it)")
    add("--download-root", type=Path, help="where downloads are kept (default: ~/.cache/clip)")
    add("--save-onnx-path", type=Path, required=True, help="prefix of the files to write")
    add("--convert-text", action="store_true", help="convert the text tower")
    add("--convert-vision", action="store_true", help="convert the image tower")
    add("--context-length", type=int, help="tokens a text (default: the architecture's, 52)")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=int, default=1, help="items a call (default: 1)")
    batch.add_argument("--dynamic-batch", action="store_true", help="any number of items a call")
    several = f"(at most {MAX_ITEMS}; default: the package's samples)"
    add("--verify-images", type=Path, help=f"folder of pictures to verify with {several}")
    add("--verify-texts", type=Path, help=f"texts to verify with, one a line {several}")
    return parser


def _closing_lines(models: Sequence[tuple[ModelCard, Path]], prefix: Path) -> Iterator[str]:
    """The guide's last lines."""
    yield "Finished PyTorch to ONNX conversion..."
    for card, _ in models:
        path = prefix.parent / card.engine
        yield (
            f">>> The {TOWER_NAMES[card.tower]} {card.precision.upper()} ONNX model is saved at "
            f"{path} with extra file {path}{EXTRA_FILE_SUFFIX}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    towers: list[Tower] = ["txt"] if args.convert_text else []
    towers += ["img"] if args.convert_vision else []
    if not towers:
        parser.error("nothing to convert: give --convert-text, --convert-vision or both")
    # A terminated conversion leaves no folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        models = convert(
            architecture=args.model_arch,
            checkpoint=args.pytorch_ckpt_path,
            save_prefix=args.save_onnx_path,
            towers=towers,
            batch_size=None if args.dynamic_batch else args.batch_size,
            context_length=args.context_length,
            download_root=args.download_root,
            verify_images=args.verify_images,
            verify_texts=args.verify_texts,
            progress=say,
        )
    except ClipfleetError as error:
        sys.stderr.write(f"pytorch_to_onnx: {error}\n")
        return WRONG_USE
    for line in _closing_lines(models, args.save_onnx_path):
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convert a checkpoint to ONNX engines, and verify them against float32 PyTorch.

    python -m clipfleet.convert.pytorch_to_onnx --model-arch ViT-B-16 \
        --save-onnx-path models/vit-b-16 --convert-text --convert-vision
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipfleet.architectures import Tower, architecture_names
from clipfleet.convert.console import TERMINATED, TOWER_NAMES, WRONG_USE, say
from clipfleet.convert.dependencies import naming_missing_packages
from clipfleet.convert.parity import MAX_ITEMS
from clipfleet.convert.staging import EXTRA_FILE_SUFFIX
from clipfleet.errors import ClipfleetError
from clipfleet.model_card import ModelCard

_LARGEST_ONNX_BYTES = 2**31  # protobuf's limit: the guide writes larger weights beside the graph


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clipfleet.convert.pytorch_to_onnx",
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
    """Yield the guide's last lines, which name the extra files that the guide writes.

    The guide writes one for every float16 file, and for a float32 file of over 2 GB.
    """
    yield "Finished PyTorch to ONNX conversion..."
    for card, _ in models:
        path = prefix.parent / card.engine
        extra = Path(f"{path}{EXTRA_FILE_SUFFIX}")
        named = card.precision == "fp16" or extra.stat().st_size > _LARGEST_ONNX_BYTES
        yield (
            f">>> The {TOWER_NAMES[card.tower]} {card.precision.upper()} ONNX model is saved at "
            f"{path}" + (f" with extra file {extra}" if named else "")
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    towers: list[Tower] = ["txt"] if args.convert_text else []
    towers += ["img"] if args.convert_vision else []
    if not towers:
        parser.error("nothing to convert: give --convert-text, --convert-vision or both")
    # At SIGTERM the temporary folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        with naming_missing_packages():
            from clipfleet.convert.conversion import convert
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
    say(f"keep each .onnx file together with its {EXTRA_FILE_SUFFIX}, which holds its weights")
    for line in _closing_lines(models, args.save_onnx_path):
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

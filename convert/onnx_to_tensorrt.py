"""Build TensorRT engines from ONNX engines, and verify them against float32.

    python -m clipfleet.convert.onnx_to_tensorrt --model-arch ViT-B-16 \
        --save-tensorrt-path models/vit-b-16 --fp16 \
        --convert-text --text-onnx-path models/vit-b-16.txt.fp16.onnx \
        --convert-vision --vision-onnx-path models/vit-b-16.img.fp16.onnx
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from clipfleet.architectures import Tower, architecture_names, load_architecture
from clipfleet.convert.console import INTERRUPTED, TERMINATED, TOWER_NAMES, WRONG_USE, say
from clipfleet.convert.parity import MAX_ITEMS
from clipfleet.convert.tensorrt.build import build_engine
from clipfleet.convert.tensorrt.options import BuildOptions, options_from, split_names
from clipfleet.convert.tensorrt.requests import (
    asked_precisions,
    build_engines,
    load_onnx,
    naming_file_errors,
)
from clipfleet.errors import ClipfleetError, UsageError
from clipfleet.model_card import ModelCard

__all__ = ["BuildOptions", "build_engine", "main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clipfleet.convert.onnx_to_tensorrt",
        description="Build TensorRT engines from ONNX files, and verify them on this GPU.",
    )
    add = parser.add_argument
    add(
        "--model-arch",
        required=True,
        help=f"{', '.join(architecture_names())}, or the path of an architecture's JSON file",
    )
    add("--convert-text", action="store_true", help="build the text tower")
    add("--text-onnx-path", type=Path, help="its ONNX file")
    add("--convert-vision", action="store_true", help="build the image tower")
    add("--vision-onnx-path", type=Path, help="its ONNX file")
    add("--save-tensorrt-path", type=Path, required=True, help="prefix of the files to write")
    add("--context-length", type=int, help="tokens a text (default: the ONNX file's, 52)")
    _add_shape_and_precision(parser)
    _add_search(parser)
    several = f"(at most {MAX_ITEMS}; default: the package's samples)"
    add("--reference", type=Path, help="float32 ONNX to compare with (default: beside the ONNX)")
    add("--verify-images", type=Path, help=f"folder of pictures to verify with {several}")
    add("--verify-texts", type=Path, help=f"texts to verify with, one a line {several}")
    return parser


def _add_shape_and_precision(parser: argparse.ArgumentParser) -> None:
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=int, help="items a call (default: 1)")
    batch.add_argument("--max-batch", type=int, help="one engine for 1 to this many items a call")
    add = parser.add_argument
    add(
        "--optimum-batch",
        type=int,
        help="batch size to tune --max-batch for (default: the largest)",
    )
    add("--fp16", action="store_true", help="build float16 engines")
    add("--fp32", action="store_true", help="build float32 engines (default: as the ONNX is)")
    add(
        "--fp16-banned-ops",
        default="",
        help="ONNX operators that stay in float32, with commas between (TensorRT 8 only)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--optimization-level", type=int, choices=range(6), help="higher: longer builds")
    add("--workspace-gib", type=float, help="scratch memory on the GPU (default: all of it)")
    add("--timing-cache", type=Path, help="its file (default: named by GPU, beside the engine)")
    add("--no-timing-cache", action="store_true", help="measure every kernel again")
    add("--tactic-sources", help="kernel libraries to search, as CUBLAS_LT,JIT_CONVOLUTIONS")
    add("--limit-s", type=float, help="end a build that takes longer")
    add("--log", type=Path, help="file for all of TensorRT's messages")
    add("--candidates", type=int, default=1, help="build this many at once, and keep the fastest")


def _requested(args: argparse.Namespace) -> list[tuple[Tower, Path]]:
    """Return the towers to build, with their ONNX files, text first as in the guide."""
    given: list[tuple[Tower, bool, Path | None]] = [
        ("txt", args.convert_text, args.text_onnx_path),
        ("img", args.convert_vision, args.vision_onnx_path),
    ]
    towers = [(tower, onnx) for tower, wanted, onnx in given if wanted]
    if not towers:
        raise UsageError("nothing to build: give --convert-text, --convert-vision or both")
    for tower, onnx in towers:
        if onnx is None:
            name = TOWER_NAMES[tower]
            raise UsageError(f"--convert-{name} needs its ONNX file: give --{name}-onnx-path")
    return [(tower, onnx) for tower, onnx in towers if onnx is not None]


def _check_card(card: ModelCard, tower: Tower, args: argparse.Namespace) -> None:
    """Check the file's card against the command's options."""
    architecture = load_architecture(args.model_arch).name
    if card.architecture != architecture:
        raise UsageError(f"--model-arch is {architecture}: {card.engine} is {card.architecture}")
    if card.tower != tower:
        raise UsageError(
            f"--{TOWER_NAMES[tower]}-onnx-path is {card.engine}, which is the "
            f"{TOWER_NAMES[card.tower]} tower"
        )
    if tower == "txt" and args.context_length not in (None, card.context_length):
        raise UsageError(
            f"--context-length is {args.context_length}: {card.engine} was exported for "
            f"{card.context_length} tokens"
        )


def _options(args: argparse.Namespace) -> BuildOptions:
    return options_from(
        optimization_level=args.optimization_level,
        workspace_gib=args.workspace_gib,
        timing_cache=args.timing_cache,
        no_timing_cache=args.no_timing_cache,
        tactic_sources=args.tactic_sources,
        limit_s=args.limit_s,
        log=args.log,
        candidates=args.candidates,
    )


def _build_requested(args: argparse.Namespace) -> list[tuple[ModelCard, Path]]:
    towers = _requested(args)
    for tower, onnx in towers:
        _check_card(load_onnx(onnx)[0], tower, args)
    build = partial(
        build_engine,
        batch_size=args.batch_size,
        max_batch=args.max_batch,
        optimum_batch=args.optimum_batch,
        fp32_ops=split_names(args.fp16_banned_ops),
        reference=args.reference,
        options=_options(args),
        verify_images=args.verify_images,
        verify_texts=args.verify_texts,
        progress=say,
    )
    return build_engines(
        [onnx for _, onnx in towers],
        prefix=args.save_tensorrt_path,
        precisions=asked_precisions(fp32=args.fp32, fp16=args.fp16),
        build=build,
    )


def _closing_lines(engines: Sequence[tuple[ModelCard, Path]], prefix: Path) -> Iterator[str]:
    """Yield the guide's last lines."""
    yield "Finished ONNX to TensorRT conversion..."
    for card, _ in engines:
        yield (
            f">>> The {TOWER_NAMES[card.tower]} {card.precision.upper()} TensorRT model is saved "
            f"at {prefix.parent / card.engine}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code."""
    args = _parser().parse_args(arguments)
    # At SIGTERM the temporary folder is removed and the builder ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        with naming_file_errors():
            engines = _build_requested(args)
    except ClipfleetError as error:
        sys.stderr.write(f"onnx_to_tensorrt: {error}\n")
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    for line in _closing_lines(engines, args.save_tensorrt_path):
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

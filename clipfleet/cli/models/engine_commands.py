"""The commands that make engines: `clipfleet convert`, `build` and `adopt`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfleet.architectures import TOWERS, load_architecture
from clipfleet.cli.options import (
    GateSample,
    Json,
    MinOverlap,
    PrecisionName,
    TowerName,
    gate_from,
)
from clipfleet.cli.output import end_on_sigterm, print_result
from clipfleet.errors import UsageError

if TYPE_CHECKING:
    from clipfleet.architectures import Tower
    from clipfleet.convert.gate import Gate
    from clipfleet.model_card import ModelCard, Precision

OnnxArgument = Annotated[
    list[Path], typer.Argument(help="ONNX engines, or their cards.", metavar="ONNX...")
]
Fp32Ops = Annotated[
    str, typer.Option(metavar="OPS", help="ONNX operators kept in float32 (TensorRT 8 only).")
]
TimingCache = Annotated[
    Path | None,
    typer.Option(help="Its file [default: beside the engine, named by version and GPU]."),
]
NoTimingCache = Annotated[
    bool, typer.Option("--no-timing-cache", help="Measure all kernels again.")
]
Reference = Annotated[
    Path | None, typer.Option(help="Float32 ONNX to compare with [default: beside the input].")
]
VerifyImages = Annotated[Path | None, typer.Option(help="Pictures to verify with.")]
VerifyTexts = Annotated[Path | None, typer.Option(help="Texts to verify with, one a line.")]


def convert(
    architecture: Annotated[
        str,
        typer.Argument(
            help="RN50, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, demo, or a JSON file."
        ),
    ],
    prefix: Annotated[
        Path,
        typer.Argument(
            help="Start of the files: models/vit-b-16 gives models/vit-b-16.img.fp32.onnx …"
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A .pt or .safetensors file [default: download the published one]."),
    ] = None,
    from_onnx: Annotated[
        Path | None,
        typer.Option(
            "--from-onnx",
            metavar="FILE",
            help="A float32 ONNX file to convert instead of a checkpoint.",
        ),
    ] = None,
    logit_scale: Annotated[
        float | None, typer.Option(help="The model's logit scale, for --from-onnx without a card.")
    ] = None,
    tower: Annotated[list[TowerName] | None, typer.Option(help="Only this tower.")] = None,
    precision: Annotated[
        list[PrecisionName] | None, typer.Option(help="Only this precision.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Items a call of the engine [default: 1].")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Let a call take any number of items.")
    ] = False,
    context_length: Annotated[int | None, typer.Option(min=3, help="Tokens in a text.")] = None,
    download_root: Annotated[Path | None, typer.Option(help="Folder of downloads.")] = None,
    verify_images: VerifyImages = None,
    verify_texts: VerifyTexts = None,
    gate_sample: GateSample = None,
    min_overlap: MinOverlap = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing if all these engines exist.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint to ONNX engines, and verify them.

    Each engine is compared with the checkpoint in PyTorch.

    With --from-onnx, the input is a float32 ONNX file, which is the reference, too.

    \b
    clipfleet convert ViT-B-16 models/vit-b-16
    clipfleet convert RN50 models/mine --checkpoint finetuned.pt --precision fp32 --dynamic-batch
    clipfleet convert ViT-B-16 models/b16 --from-onnx vit-b-16.img.fp32.onnx --logit-scale 4.6052
    """
    towers: tuple[Tower, ...] = tuple(t.value for t in tower) if tower else TOWERS
    precisions: tuple[Precision, ...] = (
        tuple(p.value for p in precision) if precision else ("fp32", "fp16")
    )
    gate = gate_from(gate_sample, min_overlap)
    if if_missing and (present := _converted(prefix, towers, precisions, gate)):
        _print(present, as_json)
        return

    # What is wrong with the request is told before PyTorch is loaded.
    checkpoint_options = {
        "--checkpoint": checkpoint,
        "--tower": tower,
        "--batch-size": batch_size,
        "--dynamic-batch": dynamic_batch,
        "--context-length": context_length,
        "--download-root": download_root,
    }
    given = [name for name, value in checkpoint_options.items() if value]
    if from_onnx is None and logit_scale is not None:
        raise UsageError("--logit-scale is for --from-onnx: a checkpoint holds its own")
    if from_onnx is not None and given:
        raise UsageError(f"{', '.join(given)}: not with --from-onnx, whose file decides it")
    load_architecture(architecture)

    from clipfleet.convert.dependencies import naming_missing_packages
    from clipfleet.convert.tensorrt.requests import naming_file_errors

    with naming_missing_packages():
        from clipfleet.convert.conversion import convert as convert_checkpoint
        from clipfleet.convert.from_onnx import convert_onnx

    end_on_sigterm()  # so that no partial file remains

    common: dict[str, Any] = {
        "architecture": architecture,
        "save_prefix": prefix,
        "precisions": precisions,
        "verify_images": verify_images,
        "verify_texts": verify_texts,
        "gate": gate,
        "progress": print_progress,
    }
    if from_onnx is None:
        models = convert_checkpoint(
            checkpoint=checkpoint,
            towers=towers,
            batch_size=None if dynamic_batch else batch_size or 1,
            context_length=context_length,
            download_root=download_root,
            **common,
        )
    else:
        with naming_file_errors():
            models = convert_onnx(from_onnx, logit_scale=logit_scale, **common)
    _print(models, as_json)


def _converted(
    prefix: Path, towers: Sequence[Tower], precisions: Sequence[Precision], gate: Gate | None
) -> list[tuple[ModelCard, Path]]:
    """Return the cards of these engines with their paths; empty if one is missing, or ungated."""
    from clipfleet.convert.gate import has_passed
    from clipfleet.model_card import card_path, load_card

    engines = [prefix.with_name(f"{prefix.name}.{t}.{p}.onnx") for t in towers for p in precisions]
    if not all(engine.is_file() and card_path(engine).is_file() for engine in engines):
        return []
    cards = [load_card(engine)[0] for engine in engines]
    if not all(has_passed(gate, card) for card in cards):
        return []
    return [(card, card_path(engine)) for card, engine in zip(cards, engines, strict=True)]


def build(
    onnx: OnnxArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PREFIX", help="Start of the files [default: beside the ONNX]."),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build float16 engines.")] = False,
    fp32: Annotated[
        bool,
        typer.Option("--fp32", help="Build float32 engines [default: the ONNX file's precision]."),
    ] = False,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Items a call of the engine; auto: the fastest of 32, 64 and 128 [default: 1].",
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="One engine for 1 to this many items a call.")
    ] = None,
    optimum_batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size to tune for [default: --max-batch].")
    ] = None,
    fp16_banned_ops: Fp32Ops = "",
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Higher: longer builds, faster engines.")
    ] = None,
    workspace_gib: Annotated[
        float | None, typer.Option(help="Scratch memory on the GPU [default: no limit].")
    ] = None,
    timing_cache: TimingCache = None,
    no_timing_cache: NoTimingCache = False,
    tactic_sources: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Kernel libraries to search.")
    ] = None,
    limit_s: Annotated[float | None, typer.Option(help="Seconds after which a build ends.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for TensorRT's log.")] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Engines to build at once; the fastest is kept.")
    ] = 1,
    reference: Reference = None,
    verify_images: VerifyImages = None,
    verify_texts: VerifyTexts = None,
    gate_sample: GateSample = None,
    min_overlap: MinOverlap = None,
    as_json: Json = False,
) -> None:
    """Build TensorRT engines for this GPU, and verify them.

    An engine is kept only if its vectors agree with its float32 ONNX. It runs only with the
    TensorRT version and GPU model of its build.

    \b
    clipfleet build models/vit-b-16.img.fp16.onnx models/vit-b-16.txt.fp16.onnx
    clipfleet build models/any.img.fp16.onnx --batch-size auto --out models/vit-b-16-bulk
    """
    from clipfleet.convert.tensorrt.build import build_engine
    from clipfleet.convert.tensorrt.options import options_from, parse_batch_size, split_names
    from clipfleet.convert.tensorrt.requests import (
        asked_precisions,
        build_engines,
        naming_file_errors,
    )

    end_on_sigterm()  # so that no builder remains

    options = options_from(
        optimization_level=optimization_level,
        workspace_gib=workspace_gib,
        timing_cache=timing_cache,
        no_timing_cache=no_timing_cache,
        tactic_sources=tactic_sources,
        limit_s=limit_s,
        log=log,
        candidates=candidates,
    )
    one = partial(
        build_engine,
        batch_size=parse_batch_size(batch_size),
        max_batch=max_batch,
        optimum_batch=optimum_batch,
        fp32_ops=split_names(fp16_banned_ops),
        reference=reference,
        options=options,
        verify_images=verify_images,
        verify_texts=verify_texts,
        gate=gate_from(gate_sample, min_overlap),
        progress=print_progress,
    )
    precisions = asked_precisions(fp32=fp32, fp16=fp16)
    with naming_file_errors():
        built = build_engines(onnx, prefix=out, precisions=precisions, build=one)
    _print(built, as_json)


def adopt(
    engine: Annotated[Path, typer.Argument(help="A TensorRT engine.")],
    reference: Reference = None,
    precision: Annotated[
        PrecisionName | None, typer.Option(help="Its precision [default: from its name].")
    ] = None,
    verify_images: VerifyImages = None,
    verify_texts: VerifyTexts = None,
    as_json: Json = False,
) -> None:
    """Verify a TensorRT engine from elsewhere, and write its card.

    The engine has no card, or the card of another machine.

    An engine file is code, which runs when it is loaded: adopt only files from a source that you
    trust.

    \b
    clipfleet adopt models/vit-b-16.img.fp16.trt --reference models/vit-b-16.img.fp32.onnx
    """
    from clipfleet.convert.tensorrt.adopt import adopt_engine
    from clipfleet.convert.tensorrt.requests import naming_file_errors

    with naming_file_errors():
        adopted = adopt_engine(
            engine,
            reference=reference,
            precision=precision.value if precision else None,
            verify_images=verify_images,
            verify_texts=verify_texts,
            progress=print_progress,
        )
    _print([adopted], as_json)


def print_progress(line: str) -> None:
    """Print a line about a step to standard error."""
    typer.echo(line, err=True)


def _print(engines: Sequence[tuple[ModelCard, Path]], as_json: bool) -> None:
    lines = [engine_line(card, path) for card, path in engines]
    print_result({"cards": [str(path) for _, path in engines]}, lines, as_json)


def engine_line(card: ModelCard, path: Path) -> str:
    """Return an engine's card, batch size and verification as a line of text."""
    parity, build = card.parity, card.build
    proof = (
        f"cosine ≥ {parity.cosine_min:.7f} on {parity.items} items" if parity else "not verified"
    )
    if parity and parity.overlap is not None:
        proof += f", overlap {parity.overlap:.4f} on {parity.overlap_items}"
    batch = f"batch {card.batch_size}, " if card.batch_size not in (None, 1) else ""
    return f"{path}: {batch}{proof}" + (f", built in {build.seconds:g} s" if build else "")

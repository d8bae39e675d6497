"""Build a TensorRT engine from an ONNX engine, verify it, and write its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from clipfleet.convert.gate import Gate
from clipfleet.convert.staging import publish, staging_folder
from clipfleet.convert.tensorrt.candidates import build_fastest
from clipfleet.convert.tensorrt.card import engine_card
from clipfleet.convert.tensorrt.options import (
    AUTO,
    AUTO_SIZES,
    BatchSize,
    BuildOptions,
    BuildRequest,
    BuildResult,
)
from clipfleet.convert.tensorrt.parity_gate import (
    compute_reference,
    find_reference,
    sibling,
    verify_tensorrt_engine,
)
from clipfleet.convert.tensorrt.requests import load_onnx
from clipfleet.errors import UsageError
from clipfleet.model_card import BatchProfile, Build, ModelCard, Precision
from clipfleet.workers.engines.onnx_files import check_onnx_files
from clipfleet.workers.engines.tensorrt import compat as versions

Progress = Callable[[str], None]


def build_engine(  # noqa: PLR0913
    onnx: str | Path,
    *,
    engine: str | Path,
    batch_size: BatchSize | None = None,
    max_batch: int | None = None,
    optimum_batch: int | None = None,
    precision: Precision | None = None,
    fp32_ops: Sequence[str] = (),
    reference: Path | None = None,
    options: BuildOptions | None = None,
    verify_images: Path | None = None,
    verify_texts: Path | None = None,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> tuple[ModelCard, Path]:
    """Build the TensorRT engine of an ONNX engine, verify it, and return its card and its path.

    `batch_size` is the number of items that every call takes (1); "auto" builds an engine for each
    of 32, 64 and 128, measures them as a worker runs them, and keeps the best. `max_batch` instead
    makes an engine for 1 to that many, tuned for `optimum_batch` (default: the most). `precision`
    defaults to the ONNX's, `reference` to the float32 ONNX beside it. Until the engine is
    verified, nothing changes at `engine`; the card is written last.

    Raises:
        CardError: The ONNX has no card.
        ConversionError: TensorRT cannot take or build it; VerificationError: it strays, or fails
            `gate`.
        DependencyError: TensorRT, cuda-bindings or onnxruntime is not installed.
        EngineError: The ONNX is not its card's, or the engine does not run.
        UsageError: An impossible request.
    """
    card, onnx_path = load_onnx(Path(onnx).absolute())
    engine = Path(engine).absolute()
    options, progress = options or BuildOptions(), progress or _silent
    trt = _tensorrt()
    profiles = _profiles(card, onnx_path, batch_size, max_batch, optimum_batch)
    precision = precision or card.precision
    _check_precision(trt, card, onnx_path, precision, fp32_ops)
    reference_card, reference_path = find_reference(card, onnx_path, reference)
    check_onnx_files(card, onnx_path)
    progress(f"computing float32 features with {reference_path.name}")
    expected = compute_reference(
        reference_card, reference_path, images=verify_images, texts=verify_texts, gate=gate
    )
    with staging_folder(engine) as staging:
        staged = staging / engine.name
        requests = [
            _request(onnx_path, staged, precision, fp32_ops, profile, options, engine.parent)
            for profile in profiles
        ]
        result = build_fastest(
            requests, count=options.candidates, progress=progress, limit_s=options.limit_s
        )
        built = _card(card, staged, requests[0], result)
        progress(f"verifying {engine.name}")
        built = replace(built, parity=verify_tensorrt_engine(built, staged, expected))
        return built, publish(built, staged, engine.parent)


def _tensorrt() -> ModuleType:
    """Return TensorRT's module where there is a GPU to build for."""
    from clipfleet.workers.engines.cuda import runtime as cuda

    cuda.device_name()
    return versions.load_tensorrt()


def _silent(_: str) -> None:
    """Report no progress."""


def _profiles(
    card: ModelCard,
    onnx: Path,
    batch_size: BatchSize | None,
    most: int | None,
    optimum: int | None,
) -> list[BatchProfile]:
    """Return the batch sizes of each engine that is to be built and compared."""
    if batch_size != AUTO:
        return [_profile(card, onnx, batch_size, most, optimum)]
    if most is not None or optimum is not None:
        raise UsageError(
            "--batch-size auto compares engines of one batch size each: leave --max-batch and "
            "--optimum-batch out"
        )
    return [_profile(card, onnx, size, None, None) for size in AUTO_SIZES]


def _profile(
    card: ModelCard, onnx: Path, batch_size: int | None, most: int | None, optimum: int | None
) -> BatchProfile:
    if batch_size is not None and most is not None:
        raise UsageError(
            f"--batch-size {batch_size} is for every call and --max-batch {most} for 1 to "
            f"{most} items a call: give one of them"
        )
    size = 1 if batch_size is None else batch_size
    smallest, largest = (size, size) if most is None else (1, most)
    best = largest if optimum is None else optimum
    if not 1 <= smallest <= best <= largest:
        raise UsageError(
            f"batch sizes are {smallest} to {largest}, tuned for {best}: at least 1 is expected, "
            "and the optimum within"
        )
    fixed = card.batch_size
    if fixed is not None and (smallest, largest) != (fixed, fixed):
        wanted = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
        raise UsageError(
            f"{onnx} is for batches of {fixed}, and an engine for {wanted} is asked for: convert "
            "with `clipfleet convert --dynamic-batch` (to another prefix), and build from that"
        )
    return BatchProfile(smallest=smallest, optimum=best, largest=largest)


def _check_precision(
    trt: ModuleType, card: ModelCard, onnx: Path, precision: Precision, fp32_ops: Sequence[str]
) -> None:
    """Check that this version can make the precision from this file."""
    strong = versions.strongly_typed(trt)
    if fp32_ops and strong:
        raise UsageError(
            f"--fp16-banned-ops {','.join(fp32_ops)}: TensorRT {trt.__version__} takes the "
            "precision of every layer from the ONNX file. Leave it out: in the float16 ONNX that "
            "`clipfleet convert` writes, norms and softmax are float32 already"
        )
    if fp32_ops and precision == "fp32":
        raise UsageError(
            f"--fp16-banned-ops {','.join(fp32_ops)} is for float16 engines: leave it out here"
        )
    if precision == card.precision or (precision == "fp16" and not strong):
        return
    raise UsageError(
        f"TensorRT {trt.__version__} cannot make a {precision} engine of {onnx}, which is "
        f"{card.precision}: build it from {sibling(onnx, card.precision, precision)}"
    )


def _request(
    onnx: Path,
    plan: Path,
    precision: Precision,
    fp32_ops: Sequence[str],
    profile: BatchProfile,
    options: BuildOptions,
    folder: Path,
) -> BuildRequest:
    cache = options.cache_place(folder)
    return BuildRequest(
        onnx=str(onnx),
        plan=str(plan),
        precision=precision,
        smallest=profile.smallest,
        optimum=profile.optimum,
        largest=profile.largest,
        fp32_ops=tuple(fp32_ops),
        optimization_level=options.optimization_level,
        workspace_bytes=options.workspace_bytes,
        tactic_sources=options.tactic_sources,
        timing_cache=str(cache) if cache else None,
        log=str(options.log.absolute()) if options.log else None,
    )


def _card(onnx: ModelCard, engine: Path, request: BuildRequest, result: BuildResult) -> ModelCard:
    """Return the card of a built engine, not verified yet; its tensors are the engine's own."""
    build = Build(
        onnx=onnx.engine,
        onnx_sha256=onnx.engine_sha256,
        seconds=result.seconds,
        optimization_level=result.optimization_level,
        workspace_bytes=request.workspace_bytes,
        timing_cache=result.timing_cache,
        typing=result.typing,
        fp32_ops=request.fp32_ops,
        candidates=result.candidates,
        size_bytes=engine.stat().st_size,
    )
    card = engine_card(onnx, engine, precision=request.precision)
    return replace(card, build=build)

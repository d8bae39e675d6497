"""Measure each runtime, one call after the other; prints the guide's lines.

    python -m clipfleet.convert.speed_benchmark --model-arch ViT-B-16 --pytorch-ckpt vit-b-16.pt \
        --onnx-image-model vit-b-16.img.fp16.onnx --tensorrt-image-model vit-b-16.img.fp16.trt
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from clipfleet.architectures import TOWERS, Tower, architecture_names, load_architecture
from clipfleet.atomic_write import atomic_write
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.convert.benchmark.latency import Latency, summarise, time_calls
from clipfleet.convert.benchmark.runtimes import (
    Device,
    Target,
    onnx_engine,
    pytorch_engine,
    tensorrt_engine,
)
from clipfleet.convert.console import WRONG_USE, say
from clipfleet.errors import ClipfleetError, UsageError
from clipfleet.workers.engines.base import Engine

_WORDS: dict[Tower, str] = {"img": "image", "txt": "text"}  # the guide's
_BATCHES = 8  # different inputs that the calls go through in turn
_HEADER = """\
| runtime | tower | engine | batch | calls | mean, ms | p50, ms | p95, ms | p99, ms | items/s |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One runtime and tower that is asked for; `open` loads it."""

    runtime: str  # as the guide prints it
    target: Target
    engine: str  # the file, and PyTorch's precision
    open: Callable[[Target], Engine]

    @property
    def name(self) -> str:
        return f"{self.runtime} {_WORDS[self.target.tower]}"


def measure(run: Run, *, n: int, warmup: int) -> Latency:
    """Load an engine, and return its latency over `n` calls after `warmup` calls.

    Raises:
        ClipfleetError: The engine cannot be loaded or run.
    """
    target = run.target
    inputs = random_inputs(
        target.architecture,
        target.tower,
        count=target.batch_size * _BATCHES,
        context_length=target.context_length,
    )
    with run.open(target) as engine:
        batches = inputs.reshape(_BATCHES, target.batch_size, *inputs.shape[1:])
        calls = [partial(engine, batch) for batch in batches]
        seconds = time_calls(calls, n=n, warmup=warmup)
    return summarise(seconds, batch_size=target.batch_size)


def runs(args: argparse.Namespace) -> Iterator[Run]:
    """Yield the runs of the flags: every runtime with images, then with texts."""
    architecture = load_architecture(args.model_arch)
    device: Device = args.device
    target = Target(
        architecture=architecture,
        tower="img",
        batch_size=args.batch_size,
        context_length=args.context_length or architecture.context_length,
    )
    for tower in TOWERS:
        make = partial(Run, target=replace(target, tower=tower))
        if args.pytorch_ckpt:
            yield make(
                runtime="Pytorch",
                engine=f"{args.pytorch_ckpt} {args.pytorch_precision}",
                open=partial(
                    pytorch_engine,
                    checkpoint=args.pytorch_ckpt,
                    precision=args.pytorch_precision,
                    device=device,
                ),
            )
        if path := getattr(args, f"onnx_{_WORDS[tower]}_model"):
            yield make(
                runtime="ONNX",
                engine=str(path),
                open=partial(onnx_engine, path=path, device=device),
            )
        if path := getattr(args, f"tensorrt_{_WORDS[tower]}_model"):
            yield make(
                runtime="TensorRT",
                engine=str(path),
                open=partial(tensorrt_engine, path=path, allow_unverified=args.allow_unverified),
            )


def markdown(results: Sequence[tuple[Run, Latency]]) -> str:
    """Return the table of all runs."""
    rows = (
        f"| {run.runtime} | {_WORDS[run.target.tower]} | {Path(run.engine).name} "
        f"| {found.batch_size} | {found.calls} | {found.mean_ms:.3f} | {found.p50_ms:.3f} "
        f"| {found.p95_ms:.3f} | {found.p99_ms:.3f} | {found.items_s:,.1f} |"
        for run, found in results
    )
    return "\n".join((_HEADER, *rows))


def report(results: Sequence[tuple[Run, Latency]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON of `--json`; times are in milliseconds a call."""
    return {
        "architecture": args.model_arch,
        "device": args.device,
        "n": args.n,
        "warmup": args.warmup,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "runs": [
            {
                "runtime": run.runtime,
                "tower": run.target.tower,
                "engine": run.engine,
                **found.to_dict(),
            }
            for run, found in results
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clipfleet.convert.speed_benchmark",
        description="Time each runtime whose files are named. A call takes an array in the host's "
        "memory and ends when the features are back there: copies and synchronisation are in "
        "every figure. Inputs are random, none constant, texts of different lengths.",
    )
    add = parser.add_argument
    add(
        "--model-arch",
        required=True,
        help=f"{', '.join(architecture_names())}, or the path of an architecture's JSON file",
    )
    add("--pytorch-ckpt", type=Path, help="time PyTorch, both towers, with this checkpoint")
    add("--pytorch-precision", choices=("fp16", "fp32"), default="fp16", help="default: fp16")
    for runtime, word in (("onnx", "ONNX"), ("tensorrt", "TensorRT")):
        for tower in ("image", "text"):
            add(f"--{runtime}-{tower}-model", type=Path, help=f"time this {word} {tower} engine")
    add("--batch-size", type=_positive, default=1, help="items a call (default: 1)")
    add("--n", type=_positive, default=100, help="calls that are timed (default: 100)")
    add("--warmup", type=_natural, default=10, help="calls before them (default: 10)")
    add(
        "--device",
        type=_device,
        default="auto",
        help="cpu or cuda, for PyTorch and ONNX Runtime (default: a GPU if there is one)",
    )
    add("--context-length", type=_positive, help="tokens a text (default: the architecture's, 52)")
    add(
        "--allow-unverified",
        action="store_true",
        help="also time TensorRT engines that were not verified on this GPU",
    )
    add("--json", type=Path, metavar="PATH", help="also write the results there")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _device(text: str) -> str:
    device = "cuda" if text == "cuda:0" else text
    if device not in ("auto", "cpu", "cuda"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not auto, cpu or cuda; CUDA_VISIBLE_DEVICES=1 chooses the second GPU"
        )
    return device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the guide's command; return its exit code: 2 if a runtime failed, after all others."""
    args = _parser().parse_args(arguments)
    results: list[tuple[Run, Latency]] = []
    failed = 0
    try:
        for run in runs(args):
            try:
                found = measure(run, n=args.n, warmup=args.warmup)
            except Exception as error:  # noqa: BLE001 - a failure of one runtime: the next may work
                failed += 1
                _complain(f"{run.name}: {_reason(error)}")
                continue
            results.append((run, found))
            say(found.line(run.name))
        if not results and not failed:
            raise UsageError(
                "nothing to time: give --pytorch-ckpt, --onnx-image-model, --onnx-text-model, "
                "--tensorrt-image-model or --tensorrt-text-model"
            )
        if args.json:
            _write(args.json, report(results, args))
    except ClipfleetError as error:
        _complain(str(error))
        return WRONG_USE
    if results:
        say(f"\n{markdown(results)}")
    return WRONG_USE if failed else 0


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ClipfleetError) else f"{type(error).__name__}: {error}"


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        with atomic_write(path) as part:
            part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _complain(problem: str) -> None:
    sys.stderr.write(f"speed_benchmark: {problem}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

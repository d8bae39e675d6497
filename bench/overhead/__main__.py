"""Measure what a whole run takes beside its parts, and the growth of its memory, without a GPU.

    python -m bench.overhead shares --into docs/explanation/performance.md
    python -m bench.overhead memory --into docs/explanation/performance.md

`shares` measures in turn, each in a process of its own: what makes the engine's inputs (decoders
that also resize; the tokeniser), the engine with inputs in memory, and `clipfleet embed` with its
defaults. `memory` embeds jobs of different sizes: a table of ids that share 1,000 small JPEGs, with
a fake engine.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.gpu.pipeline.sources import Source, caption_source, photo_source
from bench.overhead.alone import RATE, Rate
from bench.overhead.command import Run, run_embed
from bench.overhead.report import (
    MEMORY,
    SHARES,
    Round,
    Shares,
    dump_results,
    memory_report,
    read_results,
    shares_report,
)
from clipfleet.architectures import TOWERS, Tower
from clipfleet.atomic_write import atomic_write
from clipfleet.model_card import load_card
from clipfleet.settings import cores
from clipfleet.workers.engines.fake import write_fake_engine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "overhead.json"
SAMPLES = ROOT / "workers" / "images" / "samples"
_DIFFERENT = 1000  # photos, which ids share
_SMALL = "32x24"  # pixels of a photo, where only memory is measured


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.overhead", description=(__doc__ or "").splitlines()[0]
    )
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--beside", default="nothing", help="other load of the machine, for the report")
    add("--json", type=Path, default=RESULTS, help="file of the results; others in it stay")
    add("--into", type=Path, help="page whose table is rewritten")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("shares", parents=[common]).add_argument
    add("--model", default=ROOT / "examples/demo/model/demo", help="prefix of the .onnx files")
    add("--towers", nargs="+", default=TOWERS, choices=TOWERS)
    add("--images", type=int, default=8_000)
    add("--texts", type=int, default=32_000)
    add("--size", default="500x375", help="of a photo")
    add("--rounds", type=int, default=3)
    add = commands.add_parser("memory", parents=[common]).add_argument
    add("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args(arguments)
    section, report = (
        (SHARES, shares_report) if args.command == "shares" else (MEMORY, memory_report)
    )
    if args.into:
        section.insert(args.into.read_text(encoding="utf-8"), "")  # refuse a wrong page now
    results = read_results(args.json)
    with tempfile.TemporaryDirectory(prefix="clipfleet-bench-") as folder:
        if args.command == "shares":
            found = [shares(tower, args, Path(folder)) for tower in args.towers]
            others = [one for one in results.shares if one.tower not in args.towers]
            results = replace(results, shares=[*found, *others])
        else:
            results = replace(results, memory=memory(args.counts, Path(folder)))
    results.machines[args.command] = (
        f"{cores()} cores, no GPU, Python {platform.python_version()}; beside {args.beside}."
    )
    with atomic_write(args.json) as part:
        part.write_text(dump_results(results), encoding="utf-8")
    if args.into:
        section.write(args.into, report(results))
    else:
        print(report(results))


def shares(tower: Tower, args: argparse.Namespace, folder: Path) -> Shares:
    """Measure the parts and the command in turn, `args.rounds` times."""
    model = Path(f"{args.model}.{tower}.fp32.onnx")
    if tower == "img":
        made, name = photos(folder, args.size, args.images), f"JPEGs of {args.size}"
    else:
        made, name = caption_source(folder, args.texts), "captions"
    source = made.path
    rounds = [
        Round(
            inputs=alone("inputs", source, model),
            engine=alone("engine", source, model),
            embedder=alone("embedder", source, model),
            embed=run_embed(source, folder / "vectors", model),
        )
        for _ in range(args.rounds)
    ]
    card, _ = load_card(model)
    return Shares(tower=tower, source=name, model=f"{card.architecture} {tower}", rounds=rounds)


def alone(part: str, source: Path, model: Path) -> Rate:
    """Measure one part in a process of its own.

    Raises:
        SystemExit: The part failed.
    """
    command = [sys.executable, "-m", "bench.overhead.alone", part, str(source), str(model)]
    run = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    if run.returncode:
        raise SystemExit(f"{part} alone: exit code {run.returncode}")
    return RATE.validate_json(run.stdout)


def memory(counts: Sequence[int], folder: Path) -> list[Run]:
    """Run a job of each count with a fake engine."""
    model = folder / "model"
    model.mkdir()
    card = write_fake_engine(model, "img")
    return [
        run_embed(photos(folder, _SMALL, count).path, folder / "vectors", card) for count in counts
    ]


def photos(folder: Path, size: str, count: int) -> Source:
    return photo_source(folder, size, count, different=_DIFFERENT, pictures=SAMPLES)


if __name__ == "__main__":
    main()

"""Measure the whole way from image files to vectors, and its parts, in one run on one machine.

    python -m bench.gpu.pipeline OUT --engine vit-b-16.img.fp16.trt --engine other.img.fp16.trt \\
        --torch-python python3.12 --checkpoint vit-b-16.pt --model-arch ViT-B-16

Makes photos, measures each engine alone, the decoders alone and both together, runs `clipfleet
embed` with each engine and number of workers, and PyTorch's DataLoader. OUT gets `figures.json` and
`table.md`; the photos stay for the next run. Every step is a process of its own. A step that fails
leaves its reason in the table, and the next one runs. Run it from the repository's root, with
redis-server on PATH, in an interpreter with what a worker needs.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from bench.gpu.machine import this_machine
from bench.gpu.pipeline.figures import (
    Figure,
    Session,
    dump_session,
    read_figures,
    steady_rate,
    table,
    written_parts,
)
from bench.gpu.pipeline.photos import make_photos, size_of
from clipfleet.errors import ClipfleetError
from clipfleet.settings import cores

_PACKAGES = ("clipfleet", "tensorrt", "onnxruntime", "pillow", "simplejpeg", "torch")
_STEP_S = 600.0
_SHOWN = 300  # characters of the last line of a failed step


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = ready_photos(args)
    session = Session(conditions=conditions(photos), figures=[])
    for figure in steps(args, photos):
        session.figures.append(figure)
        (args.out / "figures.json").write_text(dump_session(session), encoding="utf-8")
        text = f"{session.conditions}\n\n{table(session.figures)}\n"
        (args.out / "table.md").write_text(text, encoding="utf-8")
        print(table([figure]).splitlines()[-1], flush=True)
    return 1 if any(figure.missing for figure in session.figures) else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("out", type=Path)
    add("--engine", action="append", required=True, help="of an image tower; several: repeat it")
    add("--count", type=int, default=40_000, help="photos (default: 40,000)")
    add("--size", default="500x375", help="of a photo (default: 500x375)")
    add("--pictures", type=Path, help="folder from which photos are cut (default: samples)")
    add("--workers", type=int, nargs="+", default=[1, 2], help="of `clipfleet embed`: 1 2")
    add("--shard-size", type=int, help="of `clipfleet embed` (default: the engine's)")
    add("--torch-python", default=sys.executable, help="an interpreter that has torch")
    add("--checkpoint", type=Path, help="for PyTorch (default: PyTorch is left out)")
    add("--model-arch", help="of the checkpoint")
    args = parser.parse_args(arguments)
    if args.checkpoint and not args.model_arch:
        parser.error("--checkpoint needs --model-arch")
    return args


def ready_photos(args: argparse.Namespace) -> Path:
    """Return the folder of photos, which an earlier run may have made."""
    photos: Path = args.out / f"photos-{args.size}-{args.count}"
    if not photos.exists():
        part = photos.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        make_photos(part, args.count, size_of(args.size), args.pictures)
        part.rename(photos)
    return photos


def conditions(photos: Path) -> str:
    """Return a line with the date, the machine, the versions and the photos."""
    try:
        machine = this_machine()
        gpu = f"{machine.gpu}, driver {machine.driver}"
    except (OSError, subprocess.SubprocessError):
        gpu = "no GPU"
    installed = {one.metadata["Name"].lower(): one.version for one in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in _PACKAGES if name in installed)
    files = list(photos.rglob("*.jpg"))
    size_kb = sum(path.stat().st_size for path in files) / len(files) / 1000
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {gpu}, {cores()} cores, Python "
        f"{platform.python_version()}, {versions}; {len(files):,} JPEGs of {size_kb:.0f} kB, "
        f"{photos.name}"
    )


def steps(args: argparse.Namespace, photos: Path) -> Iterator[Figure]:
    """Run all steps, and yield their figures."""
    for engine in args.engine:
        command = [sys.executable, "-m", "bench.gpu.pipeline.alone", engine, str(photos)]
        command += [] if engine == args.engine[0] else ["--no-decoders"]
        yield from measured(f"{Path(engine).name} alone", command, args.out / "step.json")
    for engine in args.engine:
        for workers in args.workers:
            yield embedded(args, photos, engine, workers)
    if args.checkpoint:
        command = [*shlex.split(args.torch_python), "-m", "bench.gpu.pipeline.dataloader"]
        command += [str(args.checkpoint), str(photos), "--model-arch", args.model_arch]
        yield from measured("PyTorch DataLoader", command, args.out / "step.json")


def measured(name: str, command: Sequence[str], out: Path) -> Iterator[Figure]:
    """Run a step that writes its figures to `out`."""
    out.unlink(missing_ok=True)
    reason = failure_of([*command, "--out", str(out)])
    if reason:
        yield Figure(measured=name, missing=reason)
    else:
        yield from read_figures(out)


def embedded(args: argparse.Namespace, photos: Path, engine: str, workers: int) -> Figure:
    """Run `clipfleet embed` into a new dataset, which is removed afterwards."""
    root = args.out / "vectors"
    shutil.rmtree(root, ignore_errors=True)
    command = [sys.executable, "-m", "clipfleet", "embed", str(photos), str(root)]
    command += ["--model", engine, "--workers", str(workers)]
    command += ["--shard-size", str(args.shard_size)] if args.shard_size else []
    decoders = os.environ.get("CLIPFLEET_DECODERS")
    details = f"workers: {workers}" + (f", decoders each: {decoders}" if decoders else "")
    began_s = time.monotonic()
    reason = failure_of(command)
    whole_images_s = args.count / (time.monotonic() - began_s)
    name = "`clipfleet embed`"
    if reason:
        return Figure(measured=name, engine=Path(engine).name, details=details, missing=reason)
    parts = written_parts(root)
    shutil.rmtree(root)
    return Figure(
        measured=name,
        engine=Path(engine).name,
        images_s=steady_rate(parts),
        whole_images_s=whole_images_s,
        details=f"{details}, parts: {len(parts)}",
    )


def failure_of(command: Sequence[str], run: Callable[..., object] = subprocess.run) -> str:
    """Run a command; return why it failed, or an empty text."""
    try:
        run(command, check=True, capture_output=True, text=True, timeout=_STEP_S)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.split("\n") if error.stderr else []
        last = next((line for line in reversed(lines) if line.strip()), "it says nothing")
        return f"exit code {error.returncode}: {last[:_SHOWN]}"
    except subprocess.TimeoutExpired:
        return f"not done after {_STEP_S:.0f} s"
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClipfleetError as error:
        sys.exit(str(error))

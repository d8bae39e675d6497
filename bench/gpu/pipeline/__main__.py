"""Measure the whole way from files to vectors, its parts and its peers, in one run on one machine.

    python -m bench.gpu.pipeline OUT --engine b32.img.fp16.trt --engine b1.img.fp16.trt \\
        --size 500x375:40960 --size 1920x1080:24576 --text-engine b32.txt.fp16.trt --decode-gpu \\
        --torch-python python3.12 --checkpoint vit-b-16.pt --model-arch ViT-B-16

Makes photos and captions. Measures each engine alone, the decoders alone, both together, `clipfleet
embed`, and PyTorch: a DataLoader, run eagerly and compiled, and the original's loop. `--gpus` adds
`clipfleet embed --gpus all`. OUT gets `figures.json` and `table.md`, after each step. A step that
fails leaves its reason in the table, and the next one runs. The same command goes on with the steps
that are missing, if machine, versions and sources are the same. Run it from the repository's root,
with redis-server on PATH, in an interpreter with what a worker needs. A steady rate begins when
each engine process has written a shard (4,096 items with TensorRT): so a count needs several.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from bench.gpu.machine import Machine, this_machine
from bench.gpu.pipeline.figures import Figure, Session, read_session, write_session
from bench.gpu.pipeline.sources import Source, caption_source, photo_source
from bench.gpu.pipeline.steps import Steps
from bench.gpu.pipeline.table import label, table
from clipfleet.errors import ClipfleetError
from clipfleet.settings import cores

_PACKAGES = (
    "clipfleet",
    "tensorrt",
    "onnxruntime",
    "pillow",
    "simplejpeg",
    "nvidia-nvimgcodec-cu12",
)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = [
        photo_source(args.out, size, count, different=args.different, pictures=args.pictures)
        for size, count in (args.size if args.engine else ())
    ]
    captions = caption_source(args.out, args.captions) if args.text_engine else None
    sources = [*photos, *([captions] if captions else [])]
    session = begun(args.out / "figures.json", sources, visible_machine())
    for step in Steps(args, photos, captions):
        if session.has(step.name):
            continue
        began_s = time.monotonic()
        session.steps[step.name] = step.run()
        write_session(session, args.out / "figures.json")
        text = f"{session.head}\n\n{table(session.figures)}\n"
        (args.out / "table.md").write_text(text, encoding="utf-8")
        print(f"{step.name}: {time.monotonic() - began_s:.0f} s")
        print("\n".join(map(said, session.steps[step.name])), flush=True)
    return 1 if any(figure.missing for figure in session.figures) else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("out", type=Path)
    add("--engine", action="append", default=[], help="of an image tower; repeatable")
    add("--text-engine", action="append", default=[], help="of a text tower; repeatable")
    add(
        "--size",
        action="append",
        type=size_and_count,
        metavar="WIDTHxHEIGHT:COUNT",
        help="photos, repeatable; the first size counts most (default: 500x375:40960)",
    )
    add("--different", type=int, default=4000, help="files of a size, which ids share: 4,000")
    add("--pictures", type=Path, help="folder from which photos are cut (default: samples)")
    add("--captions", type=int, default=200_000, help="for text engines (default: 200,000)")
    add("--decode-gpu", action="store_true", help="also `clipfleet embed --decode gpu`")
    add("--gpus", action="store_true", help="also `clipfleet embed --gpus all`")
    add("--workers", type=int, nargs="*", default=[], help="also with so many workers on the GPU")
    add("--shard-size", type=int, help="of `clipfleet embed` (default: the engine's)")
    add("--torch-python", default=sys.executable, help="an interpreter that has torch")
    add("--checkpoint", type=Path, help="for PyTorch (default: PyTorch is left out)")
    add("--model-arch", help="of the checkpoint")
    args = parser.parse_args(arguments)
    args.size = args.size or [("500x375", 40_960)]
    if not args.engine and not args.text_engine:
        parser.error("nothing to measure: give --engine or --text-engine")
    if args.checkpoint and not args.model_arch:
        parser.error("--checkpoint needs --model-arch")
    return args


def size_and_count(text: str) -> tuple[str, int]:
    """Return the two parts of an argument such as 500x375:40000."""
    size, _, count = text.partition(":")
    return size, int(count)


def begun(path: Path, sources: Sequence[Source], machine: Machine | None) -> Session:
    """Return the session of a file, if its conditions are those of today; else a new one."""
    session = Session(
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        conditions=conditions(machine),
        machine=machine,
        sources=[f"{source.count:,} of {source.name}" for source in sources],
        steps={},
    )
    if path.exists():
        earlier = read_session(path)
        if replace(earlier, steps={}) == session:
            return earlier
    return session


def visible_machine() -> Machine | None:
    try:
        return this_machine()
    except (OSError, subprocess.SubprocessError):
        return None


def conditions(machine: Machine | None) -> str:
    """Return the machine and the versions."""
    gpu = f"{machine.gpu}, driver {machine.driver}" if machine else "no GPU"
    installed = {one.metadata["Name"].lower(): one.version for one in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in _PACKAGES if name in installed)
    return f"{gpu}, {cores()} cores, Python {platform.python_version()}, {versions}"


def said(figure: Figure) -> str:
    rate = "–" if figure.items_s is None else f"{figure.items_s:,.0f}/s"
    return f"  {label(figure)} {figure.inputs} {figure.engine}: {figure.missing or rate}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClipfleetError as error:
        sys.exit(str(error))

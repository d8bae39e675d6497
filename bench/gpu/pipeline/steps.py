"""The steps of a run, the most telling first; each is a command of its own."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.gpu.pipeline.figures import Figure, Kind, read_figures
from bench.gpu.pipeline.sources import Source
from clipfleet.errors import UsageError
from clipfleet.gpus import ALL, VISIBLE_VARIABLE, choose_gpus
from clipfleet.tasks.bench.dataset import steady_part, written_parts

STEP_S = 240.0  # of a step at most
_SHOWN = 300  # characters of the last line of a failed step


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step by its name, and what runs it."""

    name: str
    run: Callable[[], list[Figure]]


class Steps:
    """What a run measures, by the arguments of `bench.gpu.pipeline`."""

    def __init__(
        self, args: argparse.Namespace, photos: Sequence[Source], captions: Source | None
    ) -> None:
        """Plan the steps; with several GPUs, all but the last comparison use the first.

        Raises:
            UsageError: Several GPUs shall be compared with one, and there is no second one.
        """
        self._args = args
        self._photos = photos
        self._captions = captions
        visible = visible_gpus()
        self._first = {VISIBLE_VARIABLE: visible[0]} if visible else {}
        self._gpus = len(visible)
        if args.gpus and self._gpus < 2:
            raise UsageError(f"--gpus compares several GPUs with one, and here is {self._gpus}")

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps in such an order that a run that is cut has the important ones."""
        args, photos = self._args, self._photos
        for number, engine in enumerate(args.engine):
            yield self._module("alone", "engine", photos[:1] if number else photos, engine)
        for source in photos:
            yield self._module("decoders", "decoders", [source], args.engine[0])
        for engine in args.engine:
            yield from (self._embed(source, engine) for source in photos[:1])
        if photos and args.checkpoint:
            yield self._torch("dataloader", "dataloader")
        for engine in args.text_engine if self._captions else ():
            assert self._captions is not None
            yield self._module("alone", "engine", [self._captions], engine)
            yield self._embed(self._captions, engine)
        yield from (self._embed(source, args.engine[0]) for source in photos[1:])
        if args.decode_gpu:
            yield from (self._embed(source, args.engine[0], decode="gpu") for source in photos)
        if args.gpus:
            yield from self._on_all_gpus()
        if photos and args.checkpoint:
            yield self._torch("dataloader", "dataloader", "--compile")
            yield self._torch("original", "original")
        for workers in args.workers:
            yield from (self._embed(photos[0], engine, workers=workers) for engine in args.engine)

    def _on_all_gpus(self) -> Iterator[Step]:
        sources = [*self._photos[:1], *([self._captions] if self._captions else [])]
        for source in sources:
            engines = self._args.text_engine if source is self._captions else self._args.engine
            yield self._embed(source, engines[0], gpus=self._gpus)

    def _module(self, module: str, kind: Kind, sources: Sequence[Source], engine: str) -> Step:
        command = [sys.executable, "-m", f"bench.gpu.pipeline.{module}", engine, *_named(sources)]
        first = Figure(kind=kind, engine=_file_of(engine), inputs=_joined(sources))
        name = f"{module} {_file_of(engine)} {first.inputs}"
        return Step(name=name, run=lambda: self._measured(command, first))

    def _torch(self, module: str, kind: Kind, *options: str) -> Step:
        command = [*shlex.split(self._args.torch_python), "-m"]
        command += [
            f"bench.gpu.pipeline.peers.{module}",
            str(self._args.checkpoint),
            *_named(self._photos),
        ]
        command += ["--model-arch", self._args.model_arch, *options]
        name = " ".join((module, *options))
        first = Figure(kind=kind, engine=" ".join(("PyTorch", *options)))
        return Step(name=name, run=lambda: self._measured(command, first))

    def _measured(self, command: Sequence[str], first: Figure) -> list[Figure]:
        """Run a step that writes its figures; `first` is the one that a failed step misses."""
        out = self._args.out / "step.json"
        out.unlink(missing_ok=True)
        reason = failure_of([*command, "--out", str(out)], self._first)
        found = read_figures(out) if out.exists() else []
        return [*found, *([replace(first, missing=reason)] if reason else [])]

    def _embed(
        self,
        source: Source,
        engine: str,
        *,
        decode: str = "exact",
        gpus: int = 1,
        workers: int = 1,
    ) -> Step:
        options = ["--decode", decode] if decode != "exact" else []
        options += ["--gpus", ALL] if gpus > 1 else []
        options += ["--workers", str(workers)] if workers > 1 else []
        if self._args.shard_size:
            options += ["--shard-size", str(self._args.shard_size)]
        figure = Figure(
            kind="embed",
            inputs=source.name,
            engine=_file_of(engine),
            decode="gpu" if decode == "gpu" else "exact",
            gpus=gpus,
            details=" ".join(options),
        )
        environment = {} if gpus > 1 else self._first
        name = " ".join(("embed", _file_of(engine), source.name, *options))
        return Step(
            name=name,
            run=lambda: [embedded(figure, source, engine, self._args.out, options, environment)],
        )


def embedded(
    figure: Figure,
    source: Source,
    engine: str,
    folder: Path,
    options: Sequence[str],
    environment: Mapping[str, str],
) -> Figure:
    """Run `clipfleet embed` into a new dataset, which is removed afterwards."""
    root = folder / "vectors"
    shutil.rmtree(root, ignore_errors=True)
    command = [sys.executable, "-m", "clipfleet", "embed", str(source.path), str(root)]
    began_s = time.monotonic()
    reason = failure_of([*command, "--model", engine, *options], environment)
    seconds = time.monotonic() - began_s
    if reason:
        return replace(figure, missing=reason)
    taken, steady_s = steady_part(written_parts(root))
    shutil.rmtree(root)
    return replace(
        figure,
        items_s=taken / steady_s if steady_s else None,
        whole_items_s=source.count / seconds,
        details=", ".join(filter(None, (figure.details, f"{source.count:,} items"))),
    )


def failure_of(
    command: Sequence[str],
    environment: Mapping[str, str],
    run: Callable[..., object] = subprocess.run,
) -> str:
    """Run a command with more variables; return why it failed, or an empty text."""
    try:
        run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            env={**os.environ, **environment},
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.split("\n") if error.stderr else []
        last = next((line for line in reversed(lines) if line.strip()), "it says nothing")
        return f"exit code {error.returncode}: {last[:_SHOWN]}"
    except subprocess.TimeoutExpired:
        return f"not done after {STEP_S:.0f} s"
    except OSError as error:
        return str(error)
    return ""


def _file_of(engine: str) -> str:
    """Return the name of an engine's file; the argument may be its card."""
    return Path(engine).name.removesuffix(".card.json")


def visible_gpus() -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each GPU that this process may use."""
    try:
        return choose_gpus(ALL)
    except UsageError:
        return []


def _named(sources: Sequence[Source]) -> list[str]:
    return [f"{source.name}={source.path}" for source in sources]


def _joined(sources: Sequence[Source]) -> str:
    return ", ".join(source.name for source in sources)

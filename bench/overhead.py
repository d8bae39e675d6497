"""Measure the overhead of the system over its own pipeline, and the growth of memory.

    python bench/overhead.py --model examples/demo/model/demo --items 20000 --rounds 3
    python bench/overhead.py --model examples/demo/model/demo --memory 20000 200000

The bare loop is one process that runs the same pipeline (read, decode, preprocess or
tokenise, engine, normalise) over the same items, without queue, plan, Parquet and
verification. The system is `clipfleet embed` with one worker. Both run in turn. The
overhead is 1 - system rate / bare rate, of two rates:

- steady: from the end of the first shard to the end of the last;
- whole: from the start of the process to its end, verification included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SCENES = ROOT / "examples" / "demo" / "scenes.py"
SAMPLE_INTERVAL_S = 0.1
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rates in items a second; peak resident memory in MiB, by role."""

    items: int
    steady: float
    whole: float
    memory: dict[str, float]


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="clipfleet-bench-") as name:
        folder = Path(name)
        if arguments.memory:
            print_memory(arguments, folder)
        else:
            for tower in arguments.towers:
                print_overhead(tower, arguments, folder)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="prefix of the models: PREFIX.img.fp32.onnx")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16"))
    parser.add_argument("--towers", nargs="+", default=["img", "txt"], choices=("img", "txt"))
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=1024)
    parser.add_argument("--memory", nargs="+", type=int, help="measure memory at these many texts")
    parser.add_argument("--bare", nargs=2, metavar=("SOURCE", "ENGINE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare(*arguments.bare, shard_size=arguments.shard_size)
        sys.exit()
    return arguments


def print_overhead(tower: str, arguments: argparse.Namespace, folder: Path) -> None:
    source = make_source(tower, arguments.items, folder)
    engine = f"{arguments.model}.{tower}.{arguments.precision}.onnx"
    bare, system = [], []
    for number in range(arguments.rounds):
        bare.append(measure_bare(source, engine, arguments.shard_size))
        out = folder / f"{tower}-{number}"
        system.append(measure_system(source, out, engine, arguments.shard_size))
    print(f"\n{tower}: {system[0].items:,} items, median of {arguments.rounds} rounds in turn\n")
    print("| | bare loop, items/s | clipfleet embed, items/s | overhead |")
    print("|---|---|---|---|")
    for rate in ("steady", "whole"):
        alone = statistics.median(getattr(m, rate) for m in bare)
        within = statistics.median(getattr(m, rate) for m in system)
        print(f"| {rate} | {alone:,.0f} | {within:,.0f} | {100 * (1 - within / alone):.1f} % |")
    rounds = ", ".join(
        f"{100 * (1 - s.steady / b.steady):.1f}/{100 * (1 - s.whole / b.whole):.1f}"
        for b, s in zip(bare, system, strict=True)
    )
    print(f"\nOverhead of each round, steady/whole, %: {rounds}", flush=True)


def print_memory(arguments: argparse.Namespace, folder: Path) -> None:
    engine = f"{arguments.model}.txt.{arguments.precision}.onnx"
    print("\n| texts | " + " | ".join(ROLES) + " | items/s |")
    print("|---|" + "---|" * (len(ROLES) + 1))
    for count in arguments.memory:
        source = make_source("txt", count, folder / str(count))
        run = measure_system(source, folder / f"{count}-out", engine, arguments.shard_size)
        row = " | ".join(f"{run.memory.get(role, 0):,.0f} MiB" for role in ROLES)
        print(f"| {count:,} | {row} | {run.steady:,.0f} |", flush=True)


def make_source(tower: str, count: int, folder: Path) -> str:
    """Return a source of `count` items: drawn pictures, or a JSONL of texts."""
    folder.mkdir(parents=True, exist_ok=True)
    if tower == "img":
        scenes = folder / "scenes"
        command = [sys.executable, str(SCENES), str(scenes), "--count", str(count), "--seed", "3"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return str(scenes / "images")
    path = folder / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            text = f"第{n}张图片：左上角有{n % 7}个红色的圆形，背景是白色 number {n * 7919}"
            file.write(json.dumps({"id": f"text-{n}", "text": text}, ensure_ascii=False) + "\n")
    return str(path)


def measure_bare(source: str, engine: str, shard_size: int) -> Measured:
    command = [sys.executable, __file__, "--model", "-", "--shard-size", str(shard_size)]
    started_s = time.monotonic()
    run = subprocess.run(
        [*command, "--bare", source, engine], check=True, capture_output=True, text=True
    )
    seconds = time.monotonic() - started_s
    facts = json.loads(run.stdout)
    return Measured(
        items=facts["items"],
        steady=steady_rate(facts["ends_s"], facts["sizes"]),
        whole=facts["items"] / seconds,
        memory={},
    )


def run_bare(source: str, engine: str, *, shard_size: int) -> None:
    """Run the pipeline alone in this process, and print when each shard ended."""
    from clipfleet.model_card import load_card
    from clipfleet.settings import load_settings
    from clipfleet.storage.sources.base import open_source
    from clipfleet.workers.embedder import Embedder

    card, _ = load_card(engine)
    ends_s, sizes = [], []
    with Embedder.from_settings(load_settings(model=engine, tower=card.tower)) as embedder:
        items = iter(open_source(source, tower=card.tower))
        while shard := list(islice(items, shard_size)):
            embedder.embed(shard)
            ends_s.append(time.monotonic())
            sizes.append(len(shard))
    print(json.dumps({"items": sum(sizes), "ends_s": ends_s, "sizes": sizes}))


def measure_system(source: str, out: Path, engine: str, shard_size: int) -> Measured:
    command = [sys.executable, "-m", "clipfleet", "embed", source, str(out), "--model", engine]
    started_s = time.monotonic()
    with (
        subprocess.Popen(
            [*command, "--shard-size", str(shard_size), "--json"], stdout=subprocess.PIPE, cwd=ROOT
        ) as process,
        MemorySampler(process.pid) as memory,
    ):
        stdout, _ = process.communicate()
    seconds = time.monotonic() - started_s
    summary = json.loads(stdout)
    if process.returncode != 0:
        raise SystemExit(f"clipfleet embed failed: {summary}")
    records = [json.loads(p.read_text()) for p in (out / "manifest").glob("[0-9]*.json")]
    ends = sorted(
        (datetime.fromisoformat(r["finished_at"]).timestamp(), r["vectors"]) for r in records
    )
    items = sum(size for _, size in ends)
    return Measured(
        items=items,
        steady=steady_rate([end for end, _ in ends], [size for _, size in ends]),
        whole=items / seconds,
        memory=memory,
    )


def steady_rate(ends_s: list[float], sizes: list[int]) -> float:
    return sum(sizes[1:]) / (ends_s[-1] - ends_s[0])


ROLES = ("submitter", "worker, parent", "worker, child", "Redis")


def role_of(process: psutil.Process, submitter: int) -> str | None:
    words = " ".join(process.cmdline())
    if process.pid == submitter:
        return "submitter"
    if "redis" in words or "valkey" in words:
        return "Redis"
    if "clipfleet.cli.main" in words and " worker" in words:
        return "worker, parent"
    return "worker, child" if "spawn_main" in words else None


class MemorySampler:
    """Collects, while it is open, the peak resident MiB of a process's family by role."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peaks: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> dict[str, float]:
        self._thread.start()
        return self._peaks

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            for role, size_mib in self._sizes():
                self._peaks[role] = max(self._peaks.get(role, 0), size_mib)

    def _sizes(self) -> Iterator[tuple[str, float]]:
        try:
            family = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
                role = role_of(process, self._root.pid)
                if role:
                    yield role, process.memory_info().rss / MIB


if __name__ == "__main__":
    main()

"""Measure `verify` on a large dataset: deep, quick, and beside another checkout.

    python bench/verify.py --rows 1000000 --rounds 3
    python bench/verify.py --baseline ../main --json bench/results/verify.json

The dataset is random unit vectors of short texts, written by the product's own commit. Each
measurement is a process of its own, in turn; the CPU time and the peak of resident memory are
those of that process. `--baseline` is another checkout, which makes and verifies a dataset of its
own with the same vectors.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipfleet.items import Item
from clipfleet.settings import cores
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.results import Embedded
from clipfleet.storage.plan.jobs import shards
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.plan.reader import PlanReader
from clipfleet.storage.sources.base import Source
from clipfleet.storage.verify.verify import verify_dataset
from clipfleet.workers.engines.fake import fake_card

ROOT = Path(__file__).parents[1]
SEED = 1
MIB = 1 << 20


class Texts(Source):
    """So many short texts."""

    description = "numbered texts"
    folder = None

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Item]:
        for n in range(self._count):
            yield Item(id=f"text-{n:09d}", text=f"the words of text number {n}")

    def location(self, position: int) -> str:
        return f"text {position}"


def main() -> None:
    arguments = parse_arguments()
    if arguments.make:
        make(arguments.make, arguments.rows, arguments.dim, arguments.shard_size)
    elif arguments.measure:
        print(json.dumps(measure(arguments.measure, quick=arguments.quick)))
    else:
        compare(arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shard-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", type=Path, help="another checkout, to measure beside")
    parser.add_argument("--folder", type=Path, help="where the datasets are made")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    for name in ("--make", "--measure"):  # for the processes that this program starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def make(folder: str, rows: int, dim: int, shard_size: int) -> None:
    card = fake_card("txt", dim=dim)
    dataset = Dataset.create(folder, card, kind="planned", embedding_dtype="float16")
    job = plan_items(dataset, Texts(rows), shard_size)
    assert job is not None
    random = np.random.default_rng(SEED)
    with PlanReader(dataset) as plan:
        for shard in shards(job):
            items = plan.read(shard)
            vectors = random.standard_normal((len(items), dim), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            embedded = Embedded(items=items, vectors=vectors, sizes=None, failures=[])
            commit(dataset, shard.name, embedded, card=card, worker="bench")


def measure(folder: str, *, quick: bool) -> dict[str, Any]:
    """Return what one verification of a whole dataset costs this process."""
    depth: dict[str, Any] = {"quick": True} if quick else {}
    before = cpu_s()
    started_s = time.monotonic()
    result = verify_dataset(folder, **depth)
    measured = {"cpu_s": cpu_s() - before, "wall_s": time.monotonic() - started_s}
    assert result.ok, result.problems
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    return {**measured, "peak_mib": peak_mib}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(arguments: argparse.Namespace) -> None:
    size = ["--rows", str(arguments.rows), "--dim", str(arguments.dim)]
    size += ["--shard-size", str(arguments.shard_size)]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        ours, theirs = str(Path(folder, "ours")), str(Path(folder, "theirs"))
        cases = {"deep": (ROOT, ours, []), "quick": (ROOT, ours, ["--quick"])}
        made = {"ours": run(ROOT, ["--make", ours, *size])[1]}
        if arguments.baseline:
            cases["baseline"] = (arguments.baseline.resolve(), theirs, [])
            made["theirs"] = run(arguments.baseline.resolve(), ["--make", theirs, *size])[1]
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for _ in range(arguments.rounds):
            for name, (checkout, dataset, more) in cases.items():
                rounds[name].append(json.loads(run(checkout, ["--measure", dataset, *more])[0]))
    result = {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "shard_size": arguments.shard_size,
        "cores": cores(),
        "made_cpu_s": made,
        "rounds": rounds,
    }
    print_result(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def run(checkout: Path, options: list[str]) -> tuple[str, float]:
    """Run this program with the packages of a checkout; return its output and its CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, inspect.getfile(main), *options],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, sum(
        getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime")
    )


def print_result(result: dict[str, Any]) -> None:
    print(
        f"{result['rows']:,} vectors of {result['dim']} in shards of {result['shard_size']:,}, "
        f"{result['cores']} cores; median of {len(result['rounds']['deep'])} rounds in turn\n"
    )
    print("| | CPU, s | wall, s | peak, MiB |")
    print("|---|---|---|---|")
    for name, rounds in result["rounds"].items():
        cells = [shown([each[key] for each in rounds]) for key in ("cpu_s", "wall_s", "peak_mib")]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, seconds in result["made_cpu_s"].items():
        print(f"\n{name}: planned and committed in {seconds:.1f} s of CPU")


def shown(values: list[float]) -> str:
    """Return the median of some values, and their range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


if __name__ == "__main__":
    main()

"""Where a TensorRT engine's time on the GPU goes, by kind of kernel.

    python -m bench.gpu.kernels kernels.csv
    python -m bench.gpu.kernels kernels.csv --json results/kernels/three.json
    python -m bench.gpu.kernels results/kernels/*.json --into docs/performance.md

reads what the profiler wrote of `bench.gpu.one_call`, or what an earlier call made of it with
`--json`: every kernel's name, how often it ran and how long in all. A file's name is its column's.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.tables import markdown
from bench.pages import Section
from clipfleet.whole_file import whole_file

SECTION = Section("kernels", "bench.gpu.kernels")

KINDS = (  # the first that matches a kernel's name
    ("attention, fused", "mha"),
    ("the patches' convolution", "fprop"),
    ("matrix products of blocks in clusters", "gemm.*cgasize"),
    ("matrix products of single blocks", "gem[mv]"),
    ("slicing and transposing query, key and value", "Sli.*Tra|Tra.*Sli"),
    ("LayerNorm, and the sums before it", "Mea"),
    ("GELU", "MulNegExp"),
    ("the rest", ""),
)

Kernels = dict[str, dict[str, int]]  # name: how often it ran, and nanoseconds in all


def read(path: Path) -> Kernels:
    """Return the kernels of a profile, or of an earlier call's JSON.

    Raises:
        ValueError: The file is neither, or not of durations.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found: Kernels = json.loads(text)
        return found
    lines = [line for line in text.splitlines() if line.startswith('"')]  # others are remarks
    kernels: Kernels = {}
    for line in csv.DictReader(lines):
        kernel = kernels.setdefault(line["Kernel Name"], {"count": 0, "ns": 0})
        kernel["count"] += 1
        kernel["ns"] += _nanoseconds(line, path)
    if not kernels:
        raise ValueError(f"{path} has no kernels: write it with ncu --csv --log-file")
    return kernels


def _nanoseconds(line: dict[str, Any], path: Path) -> int:
    metric, unit = line["Metric Name"], line["Metric Unit"]
    if (metric, unit) != ("gpu__time_duration.sum", "ns"):
        raise ValueError(f"{path} has {metric} in {unit}: give gpu__time_duration.sum, in ns")
    return int(line["Metric Value"].replace(",", ""))


def table(profiles: dict[str, Kernels]) -> str:
    """Return how many kernels of each kind a call has, their µs and their share."""
    found = [_by_kind(kernels) for kernels in profiles.values()]
    lines = [(kind, *(_cell(calls, kind) for calls in found)) for kind, _ in KINDS]
    lines.append(("all", *(_cell(calls, *calls) for calls in found)))
    heads = [f"{name}: kernels, µs, share" for name in profiles]
    return markdown(("kernels of a call", *heads), lines)


def _by_kind(kernels: Kernels) -> dict[str, tuple[int, float]]:
    """Return how many kernels of each kind one call has, and their µs."""
    # A call launches each as often as any other call: the profile is of so many.
    calls = math.gcd(*(kernel["count"] for kernel in kernels.values()))
    kinds: dict[str, tuple[int, float]] = {}
    for name, kernel in kernels.items():
        kind = next(kind for kind, pattern in KINDS if re.search(pattern, name))
        count, us = kinds.get(kind, (0, 0.0))
        kinds[kind] = count + kernel["count"] // calls, us + kernel["ns"] / 1000 / calls
    return kinds


def _cell(kinds: dict[str, tuple[int, float]], *wanted: str) -> str:
    total = sum(us for _, us in kinds.values())
    count = sum(kinds.get(kind, (0, 0.0))[0] for kind in wanted)
    us = sum(kinds.get(kind, (0, 0.0))[1] for kind in wanted)
    return f"{count}, {us:.0f}, {100 * us / total:.1f} %" if count else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="profiles, or JSON files of earlier calls")
    add("--json", type=Path, help="keep the only file's kernels here")
    add("--into", type=Path, help="write the table into a page, between its marks")
    args = parser.parse_args(arguments)
    if args.json and len(args.files) > 1:
        parser.error(f"--json keeps one file's kernels: {len(args.files)} files are given")
    try:
        profiles = {path.stem: read(path) for path in args.files}
        if args.json:
            with whole_file(args.json) as part:
                text = json.dumps(profiles[args.files[0].stem], indent=1, sort_keys=True)
                part.write_text(text + "\n", encoding="utf-8")
        if args.into:
            SECTION.write(args.into, table(profiles))
        else:
            print(table(profiles))
    except (ValueError, OSError) as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

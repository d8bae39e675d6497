"""Sum a TensorRT engine's time on the GPU by kind of kernel.

    python -m bench.gpu.kernels mine=kernels.csv
    python -m bench.gpu.kernels mine=kernels.csv --json mine.json
    python -m bench.gpu.kernels before=earlier.json mine=mine.json \\
        --into docs/explanation/performance.md

reads what the profiler wrote of `bench.gpu.profiled_calls`, or what an earlier call made of it with
`--json`: how many calls there were, and of every kernel how often it ran and how long in all.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.gpu.named import by_name, named
from bench.gpu.profiled_calls import CALLS
from bench.gpu.report.tables import markdown
from bench.pages import Section
from clipfleet.atomic_write import atomic_write

SECTION = Section("kernels", "bench.gpu.kernels")

KINDS = (  # the first that matches a kernel's name
    ("attention, fused", "mha"),
    ("convolutions", "fprop"),
    ("matrix products of blocks in clusters", "gemm.*cgasize"),
    ("matrix products of single blocks", "gem[mv]"),
    ("slicing and transposing query, key and value", "Sli.*Tra|Tra.*Sli"),
    ("LayerNorm, and the sums before it", "Mea"),
    ("GELU by itself", "MulNegExp"),
    ("the rest", ""),
)

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Kernel:
    """How often a kernel ran, and for how many nanoseconds in all."""

    count: int
    ns: int


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Profile:
    """The kernels of some calls of an engine, by name."""

    calls: int
    kernels: dict[str, Kernel]


_PROFILE = TypeAdapter(Profile)


def read(path: Path) -> Profile:
    """Return the profile in a file of the profiler's, or of ours.

    Raises:
        ValueError: The file is neither, or not of durations, or not of `CALLS` like calls.
        OSError: It cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return _read_csv(text, path)
    try:
        return _PROFILE.validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{path} is no profile that --json wrote: {error}") from error


def _read_csv(text: str, path: Path) -> Profile:
    lines = [line for line in text.splitlines() if line.startswith('"')]  # others are remarks
    counts: dict[str, int] = {}
    ns: dict[str, int] = {}
    try:
        for line in csv.DictReader(lines):
            name = line["Kernel Name"]
            counts[name] = counts.get(name, 0) + 1
            ns[name] = ns.get(name, 0) + _nanoseconds(line)
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}: write it with ncu --csv") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not counts:
        raise ValueError(f"{path} has no kernels: write it with ncu --csv --log-file")
    for name, count in counts.items():
        if count % CALLS:
            raise ValueError(
                f"{path}: {name} ran {count} times, in {CALLS} like calls of bench.gpu."
                "profiled_calls: leave out what runs before them with ncu --launch-skip"
            )
    kernels = {name: Kernel(count=count, ns=ns[name]) for name, count in counts.items()}
    return Profile(calls=CALLS, kernels=kernels)


def _nanoseconds(line: Mapping[str, Any]) -> int:
    metric, unit = line["Metric Name"], line["Metric Unit"]
    if (metric, unit) != ("gpu__time_duration.sum", "ns"):
        raise ValueError(f"{metric} in {unit}: give gpu__time_duration.sum, in ns")
    return int(line["Metric Value"].replace(",", ""))


def table(profiles: Mapping[str, Profile]) -> str:
    """Return how many kernels of each kind a call has, their µs and their share."""
    found = [_by_kind(profile) for profile in profiles.values()]
    lines = [[kind, *(_cell(kinds, kind) for kinds in found)] for kind, _ in KINDS]
    lines.append(["all", *(_cell(kinds, *kinds) for kinds in found)])
    return markdown(["a call's kernels: how many, µs, share", *profiles], lines)


def _by_kind(profile: Profile) -> dict[str, tuple[int, float]]:
    """Return how many kernels of each kind one call has, and their µs."""
    kinds: dict[str, tuple[int, float]] = {}
    for name, kernel in profile.kernels.items():
        kind = next(kind for kind, pattern in KINDS if re.search(pattern, name))
        count, us = kinds.get(kind, (0, 0.0))
        more = kernel.count // profile.calls
        kinds[kind] = count + more, us + kernel.ns / 1000 / profile.calls
    return kinds


def _cell(kinds: Mapping[str, tuple[int, float]], *wanted: str) -> str:
    total = sum(us for _, us in kinds.values())
    count = sum(kinds.get(kind, (0, 0.0))[0] for kind in wanted)
    us = sum(kinds.get(kind, (0, 0.0))[1] for kind in wanted)
    return f"{count}, {us:,.0f}, {100 * us / total:.1f} %" if count else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("files", nargs="+", type=named, metavar="NAME=FILE", help="profiles, or their JSON")
    add("--json", type=Path, help="keep the only file's kernels here")
    add("--into", type=Path, help=f"write the table into a page: {SECTION.begin}")
    args = parser.parse_args(arguments)
    files = by_name(parser, args.files)
    if args.json and len(files) > 1:
        parser.error(f"--json keeps one file's kernels: {len(files)} files are given")
    try:
        profiles = {name: read(path) for name, path in files.items()}
        if args.json:
            with atomic_write(args.json) as part:
                (profile,) = profiles.values()
                part.write_bytes(_PROFILE.dump_json(profile, indent=1) + b"\n")
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

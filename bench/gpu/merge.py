"""Merge the files of `bench.gpu.measure` into tables, one JSON and a plot.

    python -m bench.gpu.merge OUT/*.t*.json --markdown OUT/table.md --json OUT/all.json
    python -m bench.gpu.merge OUT/*.t*.json --svg docs/explanation/performance.svg \\
        --into docs/explanation/performance.md

Refuses figures of one row that come from different machines, GPUs, starts or sessions.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.measurement import Measurement, dump_measurements, read_measurements
from bench.gpu.report.plot import picture
from bench.gpu.report.rows import MixedMachinesError, Row, rows_of
from bench.gpu.report.tables import report
from bench.pages import Section
from clipfleet.atomic_write import atomic_write

SECTION = Section("measured", "bench.gpu.merge")


def merge(paths: Sequence[Path]) -> tuple[list[Measurement], list[Row]]:
    """Return what the files hold, and the rows that they make.

    Raises:
        MixedMachinesError: Figures that would be compared are not from one machine.
        ValueError, OSError: A file cannot be read as measurements.
    """
    measurements = [found for path in paths for found in read_measurements(path)]
    return measurements, rows_of(measurements)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="files of bench.gpu.measure, or a merged JSON")
    add("--markdown", type=Path, help="write the tables there (default: to the terminal)")
    add("--json", type=Path, help="write every measurement into one file")
    add("--svg", type=Path, help="write the plot there")
    add("--into", type=Path, help=f"write the tables into a page: {SECTION.begin}")
    args = parser.parse_args(arguments)
    try:
        measurements, rows = merge(args.files)
        beside = args.into or args.markdown
        plot = os.path.relpath(args.svg, beside.parent) if args.svg and beside else None
        text = report(rows, plot=plot)
        if args.into:
            SECTION.write(args.into, text)
        if args.markdown:
            _write(args.markdown, text + "\n")
        if args.json:
            _write(args.json, dump_measurements(measurements))
        if args.svg:
            _write(args.svg, picture(rows))
    except (MixedMachinesError, ValueError, OSError) as error:
        print(f"merge: {error}", file=sys.stderr)
        return 2
    if not args.markdown and not args.into:
        print(text)
    return 0


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

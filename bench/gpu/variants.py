"""Compare several measurements: of another graph or in another session.

    python -m bench.gpu.variants sessions first=monday second=tuesday
    python -m bench.gpu.variants sessions first=monday second=tuesday \\
        --into docs/explanation/performance.md

Each folder holds files of `bench.gpu.measure`; the table has every row that all of them have, once
for each, by its name. The first argument names the page's section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.gpu.merge import merge
from bench.gpu.named import by_name, named
from bench.gpu.report.rows import CELLS, MixedMachinesError, Row
from bench.gpu.report.tables import markdown, measured
from bench.gpu.report.targets import figures
from bench.pages import Section

WRITER = "bench.gpu.variants"
_RATIOS = ("batch 1: PyTorch eager / TensorRT", "batch 1: ONNX Runtime / TensorRT")


def table(folders: Mapping[str, Path]) -> str:
    """Return the table; a column that no folder has figures for is left out.

    Raises:
        MixedMachinesError: A row's figures are not from one session on one machine.
        ValueError, OSError: A file cannot be read as measurements, or no row is in all folders.
    """
    found = {name: _rows(folder) for name, folder in folders.items()}
    first, *others = found.values()
    common = [key for key in first if all(key in rows for rows in others)]
    if not common:
        where = ", ".join(str(folder) for folder in folders.values())
        raise ValueError(f"no row is in all of {where}: each needs files of bench.gpu.measure")
    header = ("architecture", "tower", "measured", *CELLS.values(), *_RATIOS)
    lines = [(*key, name, *_cells(rows[key])) for key in common for name, rows in found.items()]
    kept = [n for n in range(len(header)) if n < 3 or any(line[n] for line in lines)]
    return markdown([header[n] for n in kept], [[line[n] or "–" for n in kept] for line in lines])


def _rows(folder: Path) -> dict[tuple[str, str], Row]:
    _, rows = merge(sorted(folder.glob("*.t*.json")))
    return {(row.architecture, row.tower): row for row in rows}


def _cells(row: Row) -> Iterator[str]:
    for cell in CELLS:
        found = row.cells.get(cell)
        whole = "" if found is None or not found.missing else " (not whole)"
        yield f"{figure}{whole}" if (figure := measured(found)) else ""
    ratios = {figure.name: figure for figure in figures("", row.tower, row.cells)}
    for name in _RATIOS:
        yield ratios[name].text if ratios[name].value is not None else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("section", help="the name of the page's section")
    add("folders", nargs="+", type=named, metavar="NAME=FOLDER", help="measurements, by a name")
    add("--into", type=Path, help="a page with <!-- SECTION: begin; written by … -->")
    args = parser.parse_args(arguments)
    try:
        text = table(by_name(parser, args.folders))
        if args.into:
            Section(args.section, WRITER).write(args.into, text)
    except (MixedMachinesError, ValueError, OSError) as error:
        print(f"variants: {error}", file=sys.stderr)
        return 2
    if not args.into:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

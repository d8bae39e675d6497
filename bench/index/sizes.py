"""Build indexes of growing datasets, and count what each build and its index take.

    python -m bench.index.sizes --rows 1000000 3000000 --into docs/explanation/performance.md

The vectors are those of `bench.index.vectors`, with a caption for ten pictures. The results of
other sizes in the JSON file stay, so sizes may be measured one by one, on one machine. On a busy
machine the CPU seconds compare, the seconds do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.report.tables import markdown
from bench.index import vectors
from bench.index.peers.child import Cost, run_child
from bench.index.world import DIM
from bench.pages import Section
from clipfleet.retrieval.certificate.certified import certificate_of
from clipfleet.retrieval.index.card import read_card

RESULT = Path(__file__).parents[1] / "results" / "index_sizes.json"
SECTION = Section("sizes", "bench.index.sizes")
SEED = 7  # as in bench.index.vectors
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Size:
    """A dataset of so many rows, and its index; `recall` is recall@10 of the hardest queries."""

    rows: int
    build: Cost
    lists: int
    bits: int
    probes: int
    recall: float
    bound: float
    p95_ms: float
    codes_bytes: int
    disk_bytes: int


_SIZES = TypeAdapter(tuple[Size, ...])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, help="where datasets and indexes are made, removed")
    parser.add_argument("--json", type=Path, default=RESULT, help="add the results to this file")
    parser.add_argument("--into", type=Path, help="write the table into this page")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            add(arguments.json, measure(Path(folder), rows))
    shown = report(read(arguments.json))
    print(shown)
    if arguments.into:
        SECTION.write(arguments.into, shown)


def measure(folder: Path, rows: int) -> Size:
    """Make a dataset in `folder`, and build its index."""
    vectors.make(folder, vectors.Recipe(rows=rows, texts=rows // 10, seed=SEED))
    out = folder / "index"
    command = [sys.executable, "-m", "clipfleet", "index", str(folder / "images"), str(out)]
    options = ["--queries", str(folder / "texts"), "--kind", "ivf-rabitq"]
    built = run_child([*command, *options])
    if built.error is not None:
        raise SystemExit(f"{rows:,} vectors have no index: {built.error}")
    return size_of(out, built.cost)


def size_of(index: Path, cost: Cost) -> Size:
    """Return what the card of an index says, and what its files take."""
    card = read_card(index)
    certificate = certificate_of(card) if card else None
    assert card is not None
    assert certificate is not None
    recall = certificate.hardest.deciding
    return Size(
        rows=card.rows,
        build=cost,
        lists=card.structure.lists,
        bits=card.structure.bits,
        probes=card.parameters.probes,
        recall=recall.mean,
        bound=recall.low,
        p95_ms=certificate.latency.p95_ms,
        codes_bytes=sum(file.stat().st_size for file in index.glob("codes*")),
        disk_bytes=certificate.build.disk_bytes,
    )


def read(path: Path) -> tuple[Size, ...]:
    """Return the sizes in a JSON file; none if there is no file."""
    return _SIZES.validate_json(path.read_bytes()) if path.exists() else ()


def add(path: Path, size: Size) -> None:
    """Add a size to a JSON file, in place of an older result of as many rows."""
    others = [one for one in read(path) if one.rows != size.rows]
    sizes = sorted([*others, size], key=lambda one: one.rows)
    text = json.dumps([asdict(one) for one in sizes], indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def report(sizes: tuple[Size, ...]) -> str:
    """Return the table of all sizes in Markdown."""
    head = f"Vectors of {DIM}; recall@10 and p95 are those of the certificates."
    columns = [
        "vectors",
        "CPU, s",
        "CPU µs a vector",
        "peak memory, MiB",
        "lists, bits",
        "probes",
        "recall@10, hardest (at least)",
        "p95, ms",
        "codes, B/vector",
        "files, B/vector",
    ]
    return f"{head}\n\n{markdown(columns, [_row(size) for size in sizes])}"


def _row(size: Size) -> list[str]:
    return [
        f"{size.rows:,}",
        f"{size.build.cpu_s:,.0f}",
        f"{1e6 * size.build.cpu_s / size.rows:,.0f}",
        f"{size.build.peak_bytes / _MIB:,.0f}",
        f"{size.lists:,}, {size.bits}",
        f"{size.probes:,}",
        f"{size.recall:.3f} ({size.bound:.3f})",
        f"{size.p95_ms:.1f}",
        f"{size.codes_bytes / size.rows:,.0f}",
        f"{size.disk_bytes / size.rows:,.0f}",
    ]


if __name__ == "__main__":
    main()

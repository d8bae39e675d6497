"""Measure our index beside HNSW of FAISS and beside autofaiss, on the same vectors.

    python -m bench.index.peers --rows 1000000 --into docs/explanation/performance.md
    python -m bench.index.peers --data /tmp/million --rows 1000000 --folder /tmp/peers

Each index is built in a process of its own, one after the other, with all cores; the queries are
asked one by one on one thread. They are pictures and captions that `bench.index.vectors` made and
wrote nowhere. Our index is built twice: once without a pause, and once killed with SIGKILL in
mid-build and resumed. autofaiss gets an environment of its own: it needs NumPy 1 and older FAISS.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import clipfleet
from bench.index import vectors
from bench.index.peers.child import Child, run_child
from bench.index.peers.queries import KINDS, write_queries
from bench.index.peers.results import SECTION, Measured, Results, Setting, parse, report
from clipfleet.settings import cores

HERE = Path(__file__).parent
RESULT = Path(__file__).parents[2] / "results" / "index_peers.json"
SEED = 7  # as in bench.index.vectors
EFS = ("64", "256", "1024")
# autofaiss 2.18 needs NumPy 1, pyarrow 26 NumPy 2; FAISS 1.15 refuses an argument of autofaiss.
AUTOFAISS = ("autofaiss==2.18.0", "pyarrow<21", "faiss-cpu<1.10")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000, help="of each kind")
    parser.add_argument("--data", type=Path, help="what bench.index.vectors made of so many rows")
    parser.add_argument("--folder", type=Path, help="where indexes are built and removed")
    parser.add_argument("--max-s", type=float, default=3600, help="the longest build of autofaiss")
    parser.add_argument("--without", nargs="*", default=[], choices=["hnsw", "autofaiss"])
    parser.add_argument("--json", type=Path, default=RESULT, help="write the result here")
    parser.add_argument("--into", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments)
    text = json.dumps(results.to_json(), indent=1)
    arguments.json.write_text(text + "\n", encoding="utf-8")
    shown = report(parse(text))
    print(shown)
    if arguments.into:
        SECTION.write(arguments.into, shown)


def measure(folder: Path, arguments: argparse.Namespace) -> Results:
    """Build and ask every index in `folder`."""
    data: Path = arguments.data or folder / "data"
    if arguments.data is None:
        rows: int = arguments.rows
        vectors.make(data, vectors.Recipe(rows=rows, texts=rows // 10, seed=SEED))
    dataset = clipfleet.Dataset(data / "images")
    if len(dataset) != arguments.rows:
        raise SystemExit(f"{data} has {len(dataset):,} vectors: give --rows {len(dataset)}")
    queries = folder / "queries"
    queries.mkdir()
    count = arguments.queries
    made = dict(zip(KINDS, vectors.held_out(images=count, texts=count, seed=SEED), strict=True))
    write_queries(queries, made, lambda: (block for _, block in dataset.batches()))
    indexes = [*ours(folder, data, queries)]
    if "hnsw" not in arguments.without:
        indexes.append(hnsw(folder, data, queries))
    if "autofaiss" not in arguments.without:
        sizes = [one.codes_bytes for one in indexes if not one.error]
        indexes += autofaiss(folder, data, queries, sizes, arguments.max_s)
    return Results(
        rows=len(dataset),
        dim=dataset.dim,
        queries=count,
        machine=f"{cores()} cores, {processor()}",
        versions={"Python": platform.python_version(), "faiss-cpu": version("faiss-cpu")},
        indexes=tuple(indexes),
    )


def ours(folder: Path, data: Path, queries: Path) -> Iterator[Measured]:
    """Build our index without a pause, and killed in mid-build and resumed."""
    whole, resumed = folder / "whole", folder / "resumed"
    built = build(data, whole)
    yield asked("clipfleet", "clipfleet", built, whole, queries)
    killed = build(data, resumed, kill=True)
    done = len(done_shards(resumed))
    rest = build(data, resumed)
    shards = len(done_shards(resumed))
    cost = killed.cost + rest.cost
    child = Child(cost=cost, output=rest.output, error=rest.error)
    verified = run_child([sys.executable, "-m", "clipfleet", "verify", str(resumed)])
    note = (
        f"killed after {killed.cost.seconds:.0f} s, with {done} of {shards} shards done; the same "
        f"command then built the rest in {rest.cost.seconds:.0f} s. Its codes "
        f"{'differ from' if differing(whole, resumed) else 'are equal to'} those of the build "
        f"without a pause; `clipfleet verify` {verified.error or 'passes'}"
    )
    name = "clipfleet, killed and resumed"
    yield asked(name, "clipfleet", child, resumed, queries, note=note)
    for path in (whole, resumed):
        shutil.rmtree(path, ignore_errors=True)  # a failed build may leave none


def build(data: Path, out: Path, *, kill: bool = False) -> Child:
    """Build our index; with `kill`, kill the build when half of its shards are done."""
    command = [sys.executable, "-m", "clipfleet", "index", str(data / "images"), str(out)]
    options = ["--queries", str(data / "texts"), "--kind", "ivf-rabitq"]
    return run_child([*command, *options], kill_when=lambda: kill and half_done(out))


def half_done(out: Path) -> bool:
    plan = out / "build.json"
    if not plan.exists():
        return False
    return 2 * len(done_shards(out)) >= len(json.loads(plan.read_text(encoding="utf-8"))["shards"])


def done_shards(out: Path) -> list[Path]:
    return list(out.glob("shards/*/record.json"))


def hnsw(folder: Path, data: Path, queries: Path) -> Measured:
    """Build HNSW with 32 links over float16 vectors."""
    out = folder / "hnsw.faiss"
    child = run_child(
        [sys.executable, "-m", "bench.index.peers.hnsw", str(data / "images"), str(out)]
    )
    found = asked("FAISS HNSW32, float16", "faiss", child, out, queries, efs=EFS)
    out.unlink(missing_ok=True)
    return found


def autofaiss(
    folder: Path, data: Path, queries: Path, sizes: Sequence[int], max_s: float
) -> Iterator[Measured]:
    """Build with autofaiss, which gets the memory of each other index in turn."""
    environment = folder / "autofaiss"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *AUTOFAISS], check=True)
    for size in sorted({round(size / 1e6) for size in sizes}):
        out = folder / f"autofaiss-{size}.index"
        script = [str(HERE / "by_autofaiss.py"), str(data / "images/parts"), str(out), f"{size}MB"]
        child = run_child([str(python), *script], most_s=max_s)
        name = f"autofaiss, at most {size:,} MB"
        yield asked(name, "faiss", child, out, queries)
        out.unlink(missing_ok=True)


def asked(
    name: str,
    library: str,
    built: Child,
    index: Path,
    queries: Path,
    *,
    efs: Sequence[str] = (),
    note: str = "",
) -> Measured:
    """Return what was measured of an index that was built, or the error of its build."""
    if built.error is not None:
        return Measured(name=name, build=built.cost, error=built.error, note=note)
    command = [sys.executable, "-m", "bench.index.peers.answer", library, str(index), str(queries)]
    child = run_child([*command, "--ef", *efs])
    if child.error is not None:
        return Measured(name=name, build=built.cost, error=child.error, note=note)
    files = list(index.rglob("*")) if index.is_dir() else [index]
    codes = list(index.glob("codes*")) if index.is_dir() else files
    return Measured(
        name=name,
        build=built.cost,
        codes_bytes=sum(file.stat().st_size for file in codes),
        disk_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        searches=tuple(Setting(**one) for one in json.loads(child.output)),
        note=note,
    )


def differing(a: Path, b: Path) -> bool:
    """Return whether two indexes differ in their codes."""
    return any(
        not (b / file.name).exists()
        or not np.array_equal(
            np.memmap(file, np.uint8, "r"), np.memmap(b / file.name, np.uint8, "r")
        )
        for file in a.glob("codes*.faiss")
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()

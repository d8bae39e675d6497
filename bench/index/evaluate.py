"""Measure `clipfleet evaluate` on a large pair of datasets, and beside Chinese-CLIP's evaluation.

    python -m bench.index.vectors /tmp/million
    python -m bench.index.evaluate /tmp/million --json bench/results/evaluate.json

The large datasets are those of `bench.index.vectors`. A small pair is made for the comparison, as
the original takes a microsecond for each pair of a query and an item. Both sides write prediction
files there. Each measurement is a process of its own: its time, its CPU time, and the peak of its
resident memory. The table goes into docs/explanation/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clipfleet
from bench.index.vectors import Recipe, make
from bench.pages import Section
from clipfleet.settings import cores

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
SECTION = Section("evaluate", "bench/index/evaluate.py")
SMALL_IMAGES, SMALL_TEXTS, SEED = 5_000, 1_000, 11
_POLL_S = 0.05
FIGURES = ("r1", "r5", "r10", "mean_recall")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a process took; `output` is its standard output."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str

    @property
    def figures(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "output"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the datasets that bench.index.vectors made")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--page", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = compare_with_original(Path(folder))
    large = measure_ours(arguments.folder)
    result = {"cores": cores(), "small": small, "large": large}
    text = table(result)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if arguments.page:
        SECTION.write(PAGE, text)


def measure_ours(folder: Path, *options: str) -> dict[str, Any]:
    """Return what `clipfleet evaluate` takes for a pair of datasets, and its recalls."""
    images, texts, gold = (folder / name for name in ("images", "texts", "test_texts.jsonl"))
    paths = ["--images", str(images), "--texts", str(texts), "--gold", str(gold)]
    run = measured(["-m", "clipfleet", "evaluate", *paths, *options, "--json"])
    found = json.loads(run.output)
    count = {"images": len(clipfleet.Dataset(images)), "texts": len(clipfleet.Dataset(texts))}
    scored = {name: found[name]["queries"] for name in ("text_to_image", "image_to_text")}
    return {
        **count,
        "compared": 2 * count["texts"] * count["images"]
        if "--predictions" in options  # all queries, otherwise those that have gold answers
        else scored["text_to_image"] * count["images"] + scored["image_to_text"] * count["texts"],
        "recall": {
            name: {figure: found[name][figure] for figure in FIGURES}
            for name in ("text_to_image", "image_to_text")
        },
        "ours": run.figures,
    }


def compare_with_original(folder: Path) -> dict[str, Any]:
    """Return what both take for a small pair of datasets; their figures are equal, or it raises."""
    make(folder, Recipe(rows=SMALL_IMAGES, texts=SMALL_TEXTS, seed=SEED))
    ours = measure_ours(folder, "--predictions", str(folder / "ours"))
    for kind in ("image", "text"):
        write_features(folder / f"{kind}s", folder / f"{kind}s.jsonl", kind)
    out = folder / "original"
    out.mkdir()
    names = ("images.jsonl", "texts.jsonl", "test_texts.jsonl", "original")
    original = measured(
        ["-m", "bench.index.original_evaluation", *(str(folder / name) for name in names)]
    )
    for direction, name in (("text_to_image", "score"), ("image_to_text", "tr_score")):
        scores = json.loads((out / f"{name}.json").read_text())["scoreJson"]
        theirs = {figure: scores[figure] for figure in FIGURES}
        assert ours["recall"][direction] == theirs, (direction, ours["recall"], theirs)
    lines = [
        one == other
        for name in ("predictions.jsonl", "tr_predictions.jsonl")
        for one, other in zip(
            (folder / "ours" / name).open(encoding="utf-8"),
            (out / name).open(encoding="utf-8"),
            strict=True,
        )
    ]
    return {**ours, "original": original.figures, "equal_lines": float(np.mean(lines))}


def write_features(dataset: Path, path: Path, kind: str) -> None:
    """Write a dataset's vectors as the guide's features."""
    with path.open("w", encoding="utf-8") as file:
        for ids, vectors in clipfleet.Dataset(dataset).batches(4096):
            for id_, vector in zip(ids, vectors.astype(np.float32).tolist(), strict=True):
                file.write(json.dumps({f"{kind}_id": int(id_), "feature": vector}) + "\n")


def measured(arguments: list[str]) -> Measured:
    """Run Python in a process of its own."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started_s, peak_kib = time.monotonic(), 0
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "TQDM_DISABLE": "1"},  # the scripts' bars
            stdout=output,
        )
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            time.sleep(_POLL_S)
        wall_s = time.monotonic() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}: {printed}")
    return Measured(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=peak_kib / 1024,
        output=printed,
    )


def _peak_kib(pid: int) -> int:
    """Return the peak of a process's resident memory so far; `ru_maxrss` begins at its parent's."""
    with suppress(OSError):  # it ended just now
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def table(result: dict[str, Any]) -> str:
    small, large = result["small"], result["large"]
    rows = [
        ("Chinese-CLIP's four scripts", small, small["original"]),
        ("`clipfleet evaluate --predictions`", small, small["ours"]),
        ("`clipfleet evaluate`", large, large["ours"]),
    ]
    lines = ["| | texts | images | time, s | CPU, s | peak, MiB |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {size['texts']:,} | {size['images']:,} | {cost['wall_s']:,.0f} | "
        f"{cost['cpu_s']:,.0f} | {cost['peak_mib']:,.0f} |"
        for name, size, cost in rows
    ]
    ratio = (small["original"]["cpu_s"] / small["compared"]) / (
        large["ours"]["cpu_s"] / large["compared"]
    )
    note = (
        f"{result['cores']} cores, both directions, 512 wide. On the small pair all recalls are "
        f"equal, and {small['equal_lines']:.1%} of the predicted lines. The scripts compared "
        f"{small['compared']:,} pairs of a query and an item, and `evaluate` {large['compared']:,} "
        f"of the large datasets: a pair took the scripts {ratio:.0f} times the CPU time."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()

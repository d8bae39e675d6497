"""The tables of docs/explanation/scaling.md: what was measured, and arithmetic with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.pages import Section

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "scaling.md"
RESULT = ROOT / "bench" / "results" / "planning.json"
PIPELINE = ROOT / "bench" / "gpu" / "results" / "pipeline" / "1-500x375.json"
SECTION = Section("planning", "bench.planning")

SIZES = (100_000, 10_000_000, 100_000_000, 1_000_000_000)  # pictures
DIM, VALUE_BYTES = 512, 2  # of a vector: ViT-B-16, float16
FILES_OF_A_SHARD = 2  # its part and its record; an errors table only after failures
DAY_S, HOUR_S = 86_400, 3600


def report(result: dict[str, Any]) -> str:
    """Return the tables of a result in Markdown."""
    return "\n".join([*_measured(result), "", *_arithmetic(result)])


def _measured(result: dict[str, Any]) -> list[str]:
    plans = sorted(result["plans"], key=lambda plan: int(plan["rows"]))
    lines = ["| rows | step | CPU, s | elapsed, s | peak memory, MiB |", "|---|---|---|---|---|"]
    for plan in plans:
        for name in ("plan", "again", "append", "queue"):
            if step := plan.get(name):
                cells = (f"{step[key]:,.1f}" for key in ("cpu_s", "wall_s"))
                row = (f"{plan['rows']:,}", name, *cells, f"{step['peak_mib']:,.0f}")
                lines.append(_row(row))
    lines += ["", "| rows | shards | queued shards | plan files | plan bytes a row |"]
    lines.append("|---|---|---|---|---|")
    for plan in plans:
        counts = (plan["rows"], plan["shards"], plan["queue"]["count"], plan["plan_files"])
        a_row = f"{plan['plan_bytes'] / plan['rows']:.1f}"
        lines.append(_row([*(f"{count:,}" for count in counts), a_row]))
    redis = result["redis"]
    lines += ["", "| shards in the queue | Redis bytes | a shard |", "|---|---|---|"]
    a_shard = f"{redis['bytes'] / redis['shards']:,.0f}"
    lines.append(_row([f"{redis['shards']:,}", f"{redis['bytes']:,}", a_shard]))
    lines += ["", "| request to the store | times a shard |", "|---|---|"]
    lines += [_row((method, f"{times:.1f}")) for method, times in result["requests"].items()]
    return lines


def _arithmetic(result: dict[str, Any]) -> list[str]:
    largest = max(result["plans"], key=lambda plan: int(plan["rows"]))
    redis = result["redis"]
    requests = sum(result["requests"].values())
    names = (
        "pictures",
        "shards",
        "plan, CPU minutes",
        "plan files",
        "Redis, at most",
        "vectors",
        "files",
        "requests to a store",
        "GPU hours",
        "GPUs for one day",
    )
    lines = [_row(names), "|" + "---|" * len(names)]
    for pictures in SIZES:
        shards = -(-pictures // result["shard_size"])
        gpu_s = pictures / pictures_s()
        row = (
            f"{pictures:,}",
            f"{shards:,}",
            f"{pictures / largest['rows'] * largest['plan']['cpu_s'] / 60:,.1f}",
            _size(pictures * largest["plan_bytes"] / largest["rows"]),
            _size(min(shards, redis["shards"]) * redis["bytes"] / redis["shards"]),
            _size(pictures * DIM * VALUE_BYTES),
            f"{shards * FILES_OF_A_SHARD:,}",
            f"{shards * requests:,.0f}",
            f"{gpu_s / HOUR_S:,.1f}",
            f"{-(-gpu_s // DAY_S):,.0f}",
        )
        lines.append(_row(row))
    return lines


def pictures_s() -> float:
    """Return the pictures a second of `clipfleet embed` with one H200, as PIPELINE has it."""
    steps = json.loads(PIPELINE.read_text(encoding="utf-8"))["steps"]
    rates = [
        float(each["items_s"])
        for step in steps.values()
        for each in step
        if (each["kind"], each["inputs"], each["decode"]) == ("embed", "500x375", "exact")
    ]
    return max(rates)


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _size(size_bytes: float) -> str:
    """Return a size in the decimal unit that fits."""
    unit = "kB"
    size = size_bytes / 1000
    for larger in ("MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"

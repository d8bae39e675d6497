"""The result of a soak as JSON and as tables for the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.pages import Section
from clipfleet.atomic_write import atomic_write
from clipfleet.settings import Settings

SECTION = Section("soak", "bench.soak")
MIB = 1 << 20

Result = dict[str, Any]


def write_results(result: Result, json_path: Path, page: Path | None) -> None:
    """Write the JSON, and the table into a page between its markers.

    Raises:
        ValueError: The page has no markers.
    """
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(json_path) as part:
        part.write_text(text, encoding="utf-8")
    if page is None:
        print(report(result))
    else:
        SECTION.write(page, report(result))


def report(result: Result) -> str:
    """Return a result in Markdown."""
    tables = (_outcome(result), _faults(result), _memory(result))
    return "\n\n".join([_head(result), *("\n".join(rows) for rows in tables), _backlog(result)])


def _head(result: Result) -> str:
    options, submitted = result["options"], result["submit"]
    return (
        f"{options['items']:,} texts in {result['shards']:,} shards, {options['workers']} workers, "
        f"an engine that takes {1000 * options['item_s']:g} ms an item, "
        f"a queue of at most {options['max_queued_shards']:,} shards; "
        f"{result['machine']['cores']} cores, beside {result['machine']['beside']}. Planned and "
        f"queued in {submitted['seconds']:,} s, embedded in {result['seconds']:,} s."
    )


def _outcome(result: Result) -> list[str]:
    ids = result["ids"]
    cells = (
        result["options"]["items"],
        *(ids[n] for n in ("vectors", "errors", "lost", "doubled")),
    )
    verified = "whole" if result["verify"]["ok"] else "**not whole**"
    return [
        "| submitted | vectors | errors | lost | doubled | `clipfleet verify` |",
        "|---|---|---|---|---|---|",
        f"| {' | '.join(f'{cell:,}' for cell in cells)} | {verified} |",
    ]


def _faults(result: Result) -> list[str]:
    faults, rates = result["faults"], result["rates"]
    away = ", ".join(f"{s:.1f} s" for s in faults["redis_away_s"])
    rows = [
        ("workers killed with all their processes", faults.get("workers_killed", 0)),
        ("children that hold the engine killed", faults.get("children_killed", 0)),
        ("workers that ended by themselves", len(faults["ended_by_themselves"])),
        ("Redis restarted (SIGTERM, then SIGKILL), away for", away),
        ("shards embedded more than once", result["shards_run_more_than_once"]),
        ("shards delivered again when they were done", result["delivered_when_done"]),
        ("lost shards put back by the workers' looks", result["put_back"]),
        ("shards queued later, as there was room", f"{result['fed']:,} in {result['feeds']} goes"),
        ("items/s before the first fault", _rate(rates["before"])),
        ("items/s among the faults", _rate(rates["during"])),
        ("items/s after the last fault", _rate(rates["after"])),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {_shown(value)} |" for name, value in rows)]


def _memory(result: Result) -> list[str]:
    return [
        "| resident memory | peak, MiB | growth, bytes a million items | in the second half |",
        "|---|---|---|---|",
        *(
            f"| {role} | {size['peak_bytes'] / MIB:,.0f} | "
            f"{_bytes(size['growth_bytes_a_million_items'])} | "
            f"{_bytes(size['late_growth_bytes_a_million_items'])} |"
            for role, size in sorted(result["memory"].items())
        ),
    ]


def _backlog(result: Result) -> str:
    backlog = result["backlog"]
    limited, unlimited = (backlog[f"{name}_bytes"] / MIB for name in ("limited", "unlimited"))
    each_bytes = backlog["bytes_a_message"]
    return (
        f"A plan of {backlog['shards']:,} shards and no worker cost Redis {limited:,.1f} MiB with "
        f"a limit of {backlog['limit']:,}, and {unlimited:,.1f} MiB without one: {each_bytes:,} "
        f"bytes a queued shard, {_full(each_bytes):,.1f} MiB for as many as are queued by default."
    )


def _full(bytes_a_message: int) -> float:
    """Return the MiB of a queue with as many shards as the settings allow by default."""
    return int(Settings.model_fields["max_queued_shards"].default) * bytes_a_message / MIB


def _bytes(size: int | None) -> str:
    return "–" if size is None else f"{size:+,}"


def _rate(items_per_s: float | None) -> str:
    return "–" if items_per_s is None else f"{items_per_s:,.0f}"


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

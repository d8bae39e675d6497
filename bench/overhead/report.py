"""The results of `bench.overhead`: a JSON file, and two sections of a page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.report.tables import markdown
from bench.overhead.alone import Rate
from bench.overhead.command import Run
from bench.overhead.family import ROLES
from bench.pages import Section
from clipfleet.architectures import Tower

SHARES = Section("shares", "bench.overhead")
MEMORY = Section("memory", "bench.overhead")
LEAST_SHARE = 0.9
_INPUTS: dict[Tower, str] = {
    "img": "decoders alone, which also resize",
    "txt": "tokeniser alone, one thread",
}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement of each part, and of the command, in turn."""

    inputs: Rate
    engine: Rate
    embedder: Rate
    embed: Run


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The rounds of one tower."""

    tower: Tower
    source: str
    model: str
    rounds: list[Round]


@dataclass(frozen=True, kw_only=True)
class Results:
    """All results that are kept, and the machine of each command."""

    shares: list[Shares]
    memory: list[Run]
    machines: dict[str, str]


_RESULTS = TypeAdapter(Results)
_Value = Callable[[Round], float | None]


def read_results(path: Path) -> Results:
    """Return the results of a file; none if there is no file.

    Raises:
        ValueError: The file has another content.
    """
    if not path.exists():
        return Results(shares=[], memory=[], machines={})
    return _RESULTS.validate_json(path.read_bytes())


def dump_results(results: Results) -> str:
    """Return results as JSON."""
    return _RESULTS.dump_json(results, indent=2).decode() + "\n"


def bound(first: float, second: float) -> float:
    """Return the rate of two parts that share all cores: their times for an item add up."""
    return 1 / (1 / first + 1 / second)


def share(one: Round) -> float:
    """Return the share of the parts' bound that the command reaches on the wall."""
    assert one.embed.items_s is not None, "the command wrote too few shards"
    return one.embed.items_s / bound(one.inputs.items_s, one.engine.items_s)


def cpu_share(one: Round) -> float:
    """Return the share of the command's CPU time that its parts need."""
    assert one.embed.cpu_s is not None, "the command wrote too few shards"
    return (one.inputs.cpu_s + one.engine.cpu_s) / one.embed.cpu_s


def shares_report(results: Results) -> str:
    """Return a table for each tower."""
    machine = results.machines.get("shares", "")
    return "\n\n".join([machine, *map(_shares_of, results.shares)])


def _shares_of(found: Shares) -> str:
    lines = [
        (name, _cell(found.rounds, items_s, "{:,.0f}"), _cell(found.rounds, cpu_ms, "{:.2f}"))
        for name, items_s, cpu_ms in _rows(found.tower)
    ]
    on_wall, of_cpu = (
        _cell(found.rounds, one, "{:.0%}", least=LEAST_SHARE) for one in (share, cpu_share)
    )
    lines.append(("**share of both that the command reaches**", on_wall, of_cpu))
    table = markdown(("", "items/s", "CPU, ms an item"), lines)
    return (
        f"{found.rounds[0].embed.items:,} {found.source}, {found.model}; median of "
        f"{len(found.rounds)} rounds in turn, and the range:\n\n{table}"
    )


def _rows(tower: Tower) -> list[tuple[str, _Value, _Value]]:
    return [
        (_INPUTS[tower], lambda r: r.inputs.items_s, lambda r: 1000 * r.inputs.cpu_s),
        ("engine alone", lambda r: r.engine.items_s, lambda r: 1000 * r.engine.cpu_s),
        (
            "**both, which share the cores**",
            lambda r: bound(r.inputs.items_s, r.engine.items_s),
            lambda r: 1000 * (r.inputs.cpu_s + r.engine.cpu_s),
        ),
        (
            "embedder alone, without a queue and Parquet",
            lambda r: r.embedder.items_s,
            lambda r: 1000 * r.embedder.cpu_s,
        ),
        (
            "`clipfleet embed`, steady",
            lambda r: r.embed.items_s,
            lambda r: None if r.embed.cpu_s is None else 1000 * r.embed.cpu_s,
        ),
        ("`clipfleet embed`, whole command", lambda r: r.embed.whole_items_s, lambda _: None),
    ]


def _cell(rounds: Sequence[Round], value: _Value, form: str, *, least: float | None = None) -> str:
    """Return the median of a value and its range, and whether it is at least `least`."""
    found = [number for one in rounds if (number := value(one)) is not None]
    if not found:
        return "–"
    median = statistics.median(found)
    words = f"{form.format(median)} ({form.format(min(found))}–{form.format(max(found))})"
    if least is None:
        return words
    return f"{words}: {'met' if median >= least else '**missed**'} (at least {least:.0%})"


def memory_report(results: Results) -> str:
    """Return a table with the peak memory of each role, for each job."""
    lines = [
        (
            f"{run.items:,}",
            *(f"{run.peaks_mib[role]:,.0f}" if role in run.peaks_mib else "–" for role in ROLES),
        )
        for run in results.memory
    ]
    header = ("images", *(f"{role}, MiB" for role in ROLES))
    return f"{results.machines.get('memory', '')}\n\n{markdown(header, lines)}"

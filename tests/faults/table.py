"""The table of faults, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.pages import Section
from tests.faults.harness import Fault

SECTION = Section("faults", "python -m tests.faults")

_HEAD = ("fault", "items submitted", "vectors", "errors", "lost", "doubled", "seconds to recover")


def table(faults: Sequence[Fault]) -> str:
    """Return a row for each fault, sorted by name: tests may run beside each other."""
    rule = ["---", *["---:"] * (len(_HEAD) - 1)]
    rows = [_HEAD, rule, *sorted(map(_cells, faults))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(fault: Fault) -> tuple[str, ...]:
    counts = (fault.submitted, fault.vectors, fault.errors, fault.lost, fault.doubled)
    recovery = "never" if fault.recovery_s is None else f"{fault.recovery_s:.1f}"
    return (fault.name, *(f"{count:,}" for count in counts), recovery)

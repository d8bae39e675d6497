"""The table of faults, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.harness import Fault

BEGIN = "<!-- faults: begin; written by python -m tests.faults -->"
END = "<!-- faults: end -->"

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


def insert(page: str, text: str) -> str:
    """Return a page with `text` between its two markers.

    Raises:
        ValueError: The page has not exactly one of each marker, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page needs the line {BEGIN} and below it {END}, once each")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"

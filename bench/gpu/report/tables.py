"""The rows as Markdown: the table, its percentiles, contexts, ratios and the limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.gpu.measurement import Cell, CellName
from bench.gpu.report.rows import CELLS, EXTRA_CELLS, Row
from bench.gpu.report.targets import figures

_NONE = "–"


def report(rows: Sequence[Row], *, plot: str | None = None) -> str:
    """Return the whole report of the rows; `plot` is the picture's file name."""
    parts = [hardware(rows), table(rows)]
    if plot:
        parts.append(f"![Items a second of every architecture and runtime]({plot})")
    parts += [
        "### Compared",
        compared(rows),
        "### Percentiles of a call",
        percentiles(rows),
        "### Batches in flight",
        contexts(rows),
        "### Distance to the chip's limit",
        limit(rows),
    ]
    return "\n\n".join(part for part in parts if part)


def hardware(rows: Sequence[Row]) -> str:
    """Return what the rows were measured on and with."""
    parts = [part for row in rows for part in row.parts]
    machines = sorted(
        {f"{p.machine.gpu}, driver {p.machine.driver}, {p.machine.cores} CPU cores" for p in parts}
    )
    versions = sorted({f"{n} {v}" for p in parts for n, v in p.versions.items()})
    pythons = sorted({p.python for p in parts})
    clocks = [c.sm_mhz for p in parts for cell in p.cells.values() for c in (cell.after,) if c]
    known = [clock for clock in clocks if clock]
    clock = (
        f"GPU clock right after a measurement: {min(known):.0f} to {max(known):.0f} MHz."
        if known
        else ""
    )
    sessions = "; ".join(
        f"{session}: {', '.join(names)}" for session, names in sorted(_by_session(rows).items())
    )
    return (
        f"Hardware: {'; '.join(machines)}. {clock}\nSoftware: {', '.join(versions)}; Python "
        f"{', '.join(pythons)}.\nSessions: {sessions}."
    )


def _by_session(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the rows of each session, where each start of a machine is a session of its own."""
    found: dict[str, list[str]] = {}
    for row in rows:
        part = row.parts[0]
        where = f"{part.session} (boot {part.machine.boot_id[:8]})"
        found.setdefault(where, []).append(f"{row.architecture} {row.tower}")
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the table: milliseconds a call at batch 1 (median), and items a second."""
    notes: list[str] = []
    lines = []
    for row in rows:
        cells = [_figure(row, name, notes) for name in CELLS]
        lines.append((row.architecture, row.tower, *cells))
    text = markdown(("architecture", "tower", *CELLS.values()), lines)
    return "\n\n".join([text, *([_footnotes(notes)] if notes else [])])


def _figure(row: Row, name: CellName, notes: list[str]) -> str:
    cell = row.cells.get(name)
    figure = measured(cell)
    if cell is not None and not cell.missing and figure:
        return figure
    reason = row.missing(name)
    if reason not in notes:
        notes.append(reason)
    return f"{figure or _NONE} ({notes.index(reason) + 1})"


def measured(cell: Cell | None) -> str | None:
    """Return a cell's figure: with several rates, that of the engine's own choice of K."""
    if cell and (rate := cell.chosen or cell.best):
        return f"{rate.items_s:,.0f}/s (K={rate.contexts})"
    if cell and cell.latency:
        return f"{cell.latency.p50_ms:.3f} ms, {cell.items_s:,.0f}/s"
    return None


def _footnotes(notes: Sequence[str]) -> str:
    return "Without a figure, or not whole: " + "; ".join(
        f"({number}) {note}" for number, note in enumerate(notes, start=1)
    )


def compared(rows: Sequence[Row]) -> str:
    """Return the ratios of every row, with the targets where they apply."""
    lines = []
    names: list[str] = []
    for row in rows:
        found = list(figures(row.architecture, row.tower, row.cells))
        names = [figure.name for figure in found]
        lines.append((row.architecture, row.tower, *(figure.text for figure in found)))
    return markdown(("architecture", "tower", *names), lines)


def percentiles(rows: Sequence[Row]) -> str:
    """Return p50, p95 and p99 of every cell that timed calls, in milliseconds.

    Items a second are those of calls one after the other.
    """
    header = (
        "architecture",
        "tower",
        "runtime",
        "batch",
        "calls",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "items/s",
    )
    lines = []
    for row in rows:
        for title, cell in _titled(row):
            if found := cell.latency:
                ms = (found.p50_ms, found.p95_ms, found.p99_ms)
                rate = 1000 * cell.batch_size / found.mean_ms
                first = (row.architecture, row.tower, title, f"{cell.batch_size}")
                lines.append((*first, f"{found.calls}", *(f"{n:.3f}" for n in ms), f"{rate:,.0f}"))
    return markdown(header, lines)


def _titled(row: Row) -> Iterator[tuple[str, Cell]]:
    for name, title in {**CELLS, **EXTRA_CELLS}.items():
        if name in row.cells:
            yield title, row.cells[name]


def contexts(rows: Sequence[Row]) -> str:
    """Return items a second with K batches in flight."""
    lines = []
    for row in rows:
        for title, cell in _titled(row):
            if cell.rates:
                rates = ", ".join(f"K={r.contexts}: {r.items_s:,.0f}" for r in cell.rates)
                chosen = str(cell.chosen_contexts) if cell.chosen_contexts else _NONE
                lines.append((row.architecture, row.tower, title, rates, chosen))
    header = ("architecture", "tower", "engine", "items/s", "K that the engine chooses")
    return markdown(header, lines) if lines else "Not measured."


def limit(rows: Sequence[Row]) -> str:
    """Return how near each row's fastest runtime comes to the GPU's own matrix products."""
    header = (
        "architecture",
        "tower",
        "GFLOP an item",
        "fastest",
        "items/s",
        "TFLOP/s",
        "large matrix product, TFLOP/s",
        "share",
    )
    return markdown(header, [_limit_line(row) for row in rows])


def _limit_line(row: Row) -> tuple[str, ...]:
    flops = row.parts[0].item_flops
    first = (row.architecture, row.tower, f"{flops / 1e9:.2f}")
    rates = [(cell.items_s, title) for title, cell in _titled(row) if cell.items_s]
    if not rates:
        return (*first, _NONE, _NONE, _NONE, _NONE, _NONE)
    items_s, title = max(rates)
    tflops, ceiling = items_s * flops / 1e12, row.ceiling_tflops
    share = f"{100 * tflops / ceiling:.1f} %" if ceiling else _NONE
    top = f"{ceiling:,.0f}" if ceiling else _NONE
    return (*first, title, f"{items_s:,.0f}", f"{tflops:.1f}", top, share)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of these cells."""
    rule = "|" + "---|" * len(header)
    return "\n".join(
        [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]
    )

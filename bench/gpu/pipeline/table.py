"""The figures of a run as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu.pipeline.figures import Figure, Kind
from bench.gpu.pipeline.shares import Shares
from bench.gpu.report.tables import markdown

NAMES: dict[Kind, str] = {
    "embed": "`clipfleet embed`",
    "embedder": "embedder alone, without a queue and Parquet",
    "engine": "engine alone",
    "decoders": "decoders alone",
    "decoders-resize": "decoders alone, which also resize",
    "tokeniser": "tokeniser alone, one thread",
    "dataloader": "PyTorch DataLoader",
    "original": "the original's way",
}
HEADER = (
    "measured",
    "engine",
    "inputs",
    "with",
    "items/s, steady",
    "items/s, whole",
    "of the slower part",
    "× DataLoader",
    "× one GPU",
    "GPU idle",
)
_NONE = "–"
_ALWAYS = 6  # columns; a later one without a figure is left out


def table(figures: Sequence[Figure]) -> str:
    """Return a line for each figure, in the order of `NAMES`, and the reasons for missing ones."""
    shares = Shares(figures)
    kinds, inputs = list(NAMES), [figure.inputs for figure in figures]
    ordered = sorted(figures, key=lambda one: (kinds.index(one.kind), inputs.index(one.inputs)))
    lines = [_cells(figure, shares) for figure in ordered]
    kept = [
        column
        for column in range(len(HEADER))
        if column < _ALWAYS or any(line[column] != _NONE for line in lines)
    ]
    return markdown([HEADER[n] for n in kept], [[line[n] for n in kept] for line in lines])


def label(figure: Figure) -> str:
    """Return what was measured, in words."""
    decode = ", `--decode gpu`" if figure.decode == "gpu" else ""
    return NAMES[figure.kind] + decode


def _cells(figure: Figure, shares: Shares) -> Sequence[str]:
    missing = f"not measured: {figure.missing}" if figure.missing else ""
    return (
        label(figure),
        figure.engine or _NONE,
        figure.inputs or _NONE,
        missing or figure.details or _NONE,
        _said(figure.items_s, "{:,.0f}"),
        _said(figure.whole_items_s, "{:,.0f}"),
        _said(shares.of_slower_part(figure), "{:.0%}"),
        _said(shares.of_dataloader(figure), "{:.2f}"),
        _said(shares.of_one_gpu(figure), "{:.2f}"),
        _said(shares.idle(figure), "{:.0%}"),
    )


def _said(number: float | None, form: str) -> str:
    return _NONE if number is None else form.format(number)

"""The rates of a run as an SVG picture: a panel for each kind of inputs, on one scale each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from bench.gpu.pipeline.figures import Figure, Kind, Session
from bench.gpu.pipeline.table import label
from bench.gpu.report.svg import bar, document, text

_PLOTTED: Mapping[Kind, str] = {  # the colours are those of `bench.gpu.report.plot`
    "embed": "#0072B2",
    "dataloader": "#E69F00",
    "original": "#999999",
    "engine": "#009E73",
    "decoders": "#56B4E9",
}
# Pixels.
_NAMES, _BAR, _FIGURE = 430, 300, 70  # across: what was measured, the longest bar, its figure
_LINE, _TITLE, _HEAD, _EDGE = 18, 30, 34, 9


def picture(session: Session) -> str:
    """Return the SVG of a run: how many items a second, of the whole way and of its parts."""
    panels = {inputs: _bars(session.figures, inputs) for inputs in _inputs(session.figures)}
    heights = [_TITLE + _LINE * len(bars) for bars in panels.values()]
    tops = accumulate(heights, initial=_HEAD)
    lines = [
        line
        for (inputs, bars), top in zip(panels.items(), tops, strict=False)
        for line in _panel(inputs, bars, top)
    ]
    gpu = session.machine.gpu if session.machine else "no GPU"
    title = f"Items a second from files to vectors, {gpu}"
    return document(_NAMES + _BAR + _FIGURE, _HEAD + sum(heights) + _EDGE, title, lines)


def _inputs(figures: Sequence[Figure]) -> list[str]:
    """Return the names of the inputs that were embedded, in their order."""
    return list(dict.fromkeys(one.inputs for one in figures if one.kind == "embed"))


def _bars(figures: Sequence[Figure], inputs: str) -> list[Figure]:
    """Return what was measured with these inputs, and the engines that took them."""
    engines = {one.engine for one in figures if one.inputs == inputs and one.engine}
    found = [
        one
        for one in figures
        if one.kind in _PLOTTED
        and one.items_s is not None
        and (one.inputs == inputs or (one.kind == "engine" and one.engine in engines))
    ]
    return sorted(found, key=lambda one: list(_PLOTTED).index(one.kind))


def _panel(inputs: str, bars: Sequence[Figure], top: int) -> Iterator[str]:
    yield text(_EDGE, top + 14, inputs, weight="bold")
    longest = max((one.items_s or 0.0 for one in bars), default=1.0)
    for number, one in enumerate(bars):
        y = top + _TITLE - 8 + number * _LINE
        rate = one.items_s or 0.0
        yield text(_NAMES - 6, y + 10, _words(one), anchor="end")
        yield from bar(_NAMES, y, max(_BAR * rate / longest, 1), _PLOTTED[one.kind], f"{rate:,.0f}")


def _words(figure: Figure) -> str:
    gpus = f"{figure.gpus} GPUs" if figure.gpus > 1 else ""
    way = figure.details.split(",")[1].strip() if figure.kind == "original" else ""
    return ", ".join(filter(None, (label(figure).replace("`", ""), figure.engine, gpus, way)))

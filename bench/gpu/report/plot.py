"""The rows as an SVG picture: a panel for each architecture and tower.

Bars are items a second, each panel with a scale of its own, since an RN50's text tower is a
hundred times as fast as a ViT-H-14's image tower. Figures stand beside the bars. The
colours are those of Okabe and Ito, which colour-blind people can distinguish
(https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.gpu.measurement import CellName
from bench.gpu.report.rows import CELLS, Row
from bench.gpu.report.svg import bar, document, text
from clipfleet.architectures import TOWERS

_COLOURS: dict[CellName, str] = {
    "pytorch": "#999999",
    "pytorch-graph": "#E69F00",
    "onnx": "#56B4E9",
    "tensorrt": "#009E73",
    "tensorrt-contexts": "#0072B2",
    "tensorrt-b32": "#D55E00",
}
# Pixels.
_NAMES, _BAR, _FIGURE = 190, 200, 70  # across: the runtime's name, the longest bar, its figure
_LINE = 18
_TITLE, _GAP = 26, 18
_PANEL_WIDTH = _NAMES + _BAR + _FIGURE
_PANEL_HEIGHT = _TITLE + _LINE * len(CELLS) + _GAP
_HEAD = 34


def picture(rows: Sequence[Row]) -> str:
    """Return the rows' SVG: image towers on the left, text towers on the right."""
    names = list(dict.fromkeys(row.architecture for row in rows))
    width = _PANEL_WIDTH * len(TOWERS) + _GAP
    height = _HEAD + _PANEL_HEIGHT * len(names)
    panels = (
        line
        for row in rows
        for line in _panel(
            row,
            left=_GAP // 2 + TOWERS.index(row.tower) * _PANEL_WIDTH,
            top=_HEAD + names.index(row.architecture) * _PANEL_HEIGHT,
        )
    )
    gpu = rows[0].parts[0].machine.gpu if rows else ""
    title = f"Items a second, float16, {gpu}; each panel has its own scale"
    return document(width, height, title, panels)


def _panel(row: Row, *, left: int, top: int) -> Iterator[str]:
    yield text(left, top + 14, f"{row.architecture}, {_WORDS[row.tower]}", weight="bold")
    rates = {name: cell.items_s for name, cell in row.cells.items() if cell.items_s}
    longest = max((rates[name] for name in CELLS if name in rates), default=1.0)
    for number, (name, title) in enumerate(CELLS.items()):
        y = top + _TITLE + number * _LINE
        yield text(left + _NAMES - 6, y + 10, title, anchor="end")
        if name not in rates:
            yield text(left + _NAMES, y + 10, "not measured", colour="#666666")
            continue
        length = max(_BAR * rates[name] / longest, 1)
        yield from bar(left + _NAMES, y, length, _COLOURS[name], f"{rates[name]:,.0f}")


_WORDS = {"img": "images", "txt": "texts"}

"""The targets for TensorRT against the other runtimes, and the measured ratios."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.gpu.measurement import Cell, CellName
from clipfleet.architectures import Tower

TARGET_ROW: tuple[str, Tower] = ("ViT-B-16", "img")

Cells = Mapping[CellName, Cell]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a row, and the least that it should be where a target applies."""

    name: str
    value: float | None
    unit: str  # "×" or "/s"
    least: float | None = None

    @property
    def text(self) -> str:
        """The value with its unit, and "met" or "missed" where there is a target."""
        if self.value is None:
            return "–" if self.least is None else f"– (target {self._said(self.least)})"
        verdict = ""
        if self.least is not None:
            met = "met" if self.value >= self.least else "**missed**"
            verdict = f" (target {self._said(self.least)}: {met})"
        return self._said(self.value) + verdict

    def _said(self, number: float) -> str:
        if self.unit != "×":
            return f"{number:,.0f}{self.unit}"
        return f"{number:.2f}×" if number < 10 else f"{number:.1f}×"


def figures(architecture: str, tower: Tower, cells: Cells) -> Iterator[Figure]:
    """Yield a row's ratios and rates, with the targets if it is the row that has them.

    The number of contexts K that counts is the engine's own choice: workers have no other.
    """
    least: dict[str, float] = {}
    if (architecture, tower) == TARGET_ROW:
        least = {"eager": 6, "onnx": 3, "contexts": 1.9, "rate": 3000, "b32": 8700}
    latency = {name: _p50(cells.get(name)) for name in ("pytorch", "onnx", "tensorrt")}
    contexts, batch = cells.get("tensorrt-contexts"), cells.get("tensorrt-b32")
    chosen, best = _chosen(contexts), contexts.items_s if contexts else None
    yield Figure(
        name="batch 1: PyTorch eager / TensorRT",
        value=_ratio(latency["pytorch"], latency["tensorrt"]),
        unit="×",
        least=least.get("eager"),
    )
    yield Figure(
        name="batch 1: ONNX Runtime / TensorRT",
        value=_ratio(latency["onnx"], latency["tensorrt"]),
        unit="×",
        least=least.get("onnx"),
    )
    yield Figure(
        name="chosen K / 1",
        value=_ratio(chosen, _one_context(contexts)),
        unit="×",
        least=least.get("contexts"),
    )
    yield Figure(name="best K / 1", value=_ratio(best, _one_context(contexts)), unit="×")
    yield Figure(name="chosen K", value=chosen, unit="/s", least=least.get("rate"))
    yield Figure(name="best K", value=best, unit="/s")
    yield Figure(
        name="batch 32, chosen K",
        value=_chosen(batch),
        unit="/s",
        least=least.get("b32"),
    )
    yield Figure(name="batch 32 / 1, chosen K", value=_ratio(_chosen(batch), chosen), unit="×")


def _p50(cell: Cell | None) -> float | None:
    return cell.latency.p50_ms if cell and cell.latency else None


def _chosen(cell: Cell | None) -> float | None:
    return cell.chosen.items_s if cell and cell.chosen else None


def _one_context(cell: Cell | None) -> float | None:
    rates = cell.rates if cell else ()
    return next((rate.items_s for rate in rates if rate.contexts == 1), None)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None else None

"""What a rate is in relation to others of the same run: of its parts, of PyTorch, of one GPU.

- **The slower part** of an `embed` is the engine alone (times the GPUs) or, if they are slower, the
  decoders alone on the same photos. Texts, and pictures that the GPU decodes, have the engine only.
- **The GPU's idle share** is 1 - busy seconds / seconds. The engine is busy for items / its rate
  alone. So it is 1 - rate / (rate alone × GPUs), at least 0. PyTorch's engine alone is its model on
  inputs in the GPU's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.gpu.pipeline.figures import CAPTIONS, EAGER, Figure


class Shares:
    """The figures of one run."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._figures = figures

    def of_slower_part(self, figure: Figure) -> float | None:
        """Return the share of the slower part that an `embed`, or an embedder, reaches."""
        if figure.kind not in {"embed", "embedder"} or figure.items_s is None:
            return None
        rates = [self._engine(figure)]
        if figure.decode == "exact" and figure.inputs != CAPTIONS:
            rates.append(self._rate(Figure(kind="decoders", inputs=figure.inputs)))
        known = [rate for rate in rates if rate is not None]
        return figure.items_s / min(known) if len(known) == len(rates) else None

    def idle(self, figure: Figure) -> float | None:
        """Return the share of the time in which the GPU waits."""
        alone = self._engine(figure)
        if figure.kind == "engine" or figure.items_s is None or alone is None:
            return None
        return max(0.0, 1 - figure.items_s / alone)

    def of_dataloader(self, figure: Figure) -> float | None:
        """Return the ratio to PyTorch's DataLoader on the same photos, run eagerly."""
        if figure.kind not in {"embed", "dataloader", "original"}:
            return None
        other = Figure(kind="dataloader", inputs=figure.inputs, engine=EAGER)
        return _ratio(figure.items_s, self._rate(other))

    def of_one_gpu(self, figure: Figure) -> float | None:
        """Return the ratio of several GPUs to one."""
        if figure.gpus == 1:
            return None
        return _ratio(figure.items_s, self._rate(replace(figure, gpus=1)))

    def _engine(self, figure: Figure) -> float | None:
        rate = self._rate(Figure(kind="engine", engine=figure.engine)) if figure.engine else None
        return None if rate is None else rate * figure.gpus

    def _rate(self, wanted: Figure) -> float | None:
        """Return the rate of what was measured like `wanted`; of several, that of the first."""
        key = _key(wanted)
        return next((one.items_s for one in self._figures if _key(one) == key), None)


def _key(figure: Figure) -> tuple[object, ...]:
    return figure.kind, figure.inputs, figure.engine, figure.decode, figure.gpus


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None else None

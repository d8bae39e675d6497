"""The measurements of one process for one architecture and tower, as JSON for `merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.machine import Clocks, Machine
from clipfleet.architectures import Tower
from clipfleet.atomic_write import atomic_write

_STRICT = ConfigDict(extra="forbid")

CellName = Literal[
    "pytorch",
    "pytorch-graph",
    "pytorch-graph-b32",
    "onnx",
    "tensorrt",
    "tensorrt-contexts",
    "tensorrt-b32",
]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Latency:
    """Milliseconds a call, from the host's array to the host's features."""

    calls: int
    mean_ms: float
    sd_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Rate:
    """Items a second of an engine that is given many items at once.

    `items_s` is the median of `rounds`; `contexts` are the batches in flight.
    """

    contexts: int
    items_s: float
    rounds: tuple[float, ...]
    items: int  # a round


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Cell:
    """One runtime's figures; where there are none, or not all, `missing` says why."""

    batch_size: int = 1
    latency: Latency | None = None
    rates: tuple[Rate, ...] = ()
    chosen_contexts: int | None = None  # what the engine found best by itself
    graphs: bool | None = None  # TensorRT: whether it launched CUDA graphs
    before: Clocks | None = None
    after: Clocks | None = None
    missing: str | None = None

    @property
    def best(self) -> Rate | None:
        """The highest rate."""
        return max(self.rates, key=lambda rate: rate.items_s, default=None)

    @property
    def chosen(self) -> Rate | None:
        """The rate with as many contexts as the engine chooses by itself: what workers have."""
        return next((rate for rate in self.rates if rate.contexts == self.chosen_contexts), None)

    @property
    def items_s(self) -> float | None:
        """Items a second: the best rate, or that of calls one after the other."""
        if self.best:
            return self.best.items_s
        return 1000 * self.batch_size / self.latency.mean_ms if self.latency else None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Measurement:
    """One process's cells of one architecture and tower.

    `item_flops` are the operations in one item (`bench/gpu/timing/flops.py`). `session`
    names its run of `bench/gpu/run`. `ceiling_tflops` is the rate of a large float16
    matrix product on this GPU, where the process measured it.
    """

    architecture: str
    tower: Tower
    item_flops: int
    session: str
    machine: Machine
    started_at: str  # ISO 8601, UTC
    finished_at: str | None
    python: str
    versions: dict[str, str]
    ceiling_tflops: float | None
    cells: dict[CellName, Cell]


_MEASUREMENT = TypeAdapter(Measurement)
_MEASUREMENTS = TypeAdapter(list[Measurement])


def read_measurements(path: Path) -> list[Measurement]:
    """Return the measurement in a file of `write_measurement`, or all of a merged file.

    Raises:
        ValueError: The file does not hold any.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            return _MEASUREMENTS.validate_python(content)
        return [_MEASUREMENT.validate_python(content)]
    except ValueError as error:
        raise ValueError(f"{path} holds no measurement: {error}") from error


def dump_measurements(measurements: Sequence[Measurement]) -> str:
    """Return measurements as one file's text."""
    return _MEASUREMENTS.dump_json(list(measurements), indent=1).decode() + "\n"


def write_measurement(measurement: Measurement, path: Path) -> None:
    """Write a measurement; the file appears whole."""
    with atomic_write(path) as part:
        part.write_bytes(_MEASUREMENT.dump_json(measurement, indent=1) + b"\n")

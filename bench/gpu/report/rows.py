"""Rows of the report: one for each architecture and tower, each from one session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.gpu.measurement import Cell, CellName, Measurement
from clipfleet.architectures import TOWERS, Tower

ORDER = ("RN50", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
CELLS: dict[CellName, str] = {
    "pytorch": "PyTorch eager",
    "pytorch-graph": "PyTorch CUDA graph",
    "onnx": "ONNX Runtime CUDA",
    "tensorrt": "TensorRT, batch 1",
    "tensorrt-contexts": "TensorRT, batch 1, K contexts",
    "tensorrt-b32": "TensorRT, batch 32",
}
EXTRA_CELLS: dict[CellName, str] = {"pytorch-graph-b32": "PyTorch CUDA graph, batch 32"}


class MixedMachinesError(ValueError):
    """Figures that would be compared do not come from one machine and session."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One architecture and tower in every runtime."""

    architecture: str
    tower: Tower
    parts: tuple[Measurement, ...]

    @property
    def cells(self) -> dict[CellName, Cell]:
        return {name: cell for part in self.parts for name, cell in part.cells.items()}

    @property
    def ceiling_tflops(self) -> float | None:
        return next((p.ceiling_tflops for p in self.parts if p.ceiling_tflops), None)

    def missing(self, name: CellName) -> str:
        """Why a cell has no figures."""
        cell = self.cells.get(name)
        return (cell.missing if cell else None) or "not measured in this session"


def rows_of(measurements: Iterable[Measurement]) -> list[Row]:
    """Return a row for each architecture and tower, in the table's order.

    Raises:
        MixedMachinesError: A row's figures come from different sessions, machines, GPUs, starts
            or drivers; two files hold the same cell; or rows come from different models
            of GPU.
    """
    groups: dict[tuple[str, Tower], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.architecture, measurement.tower), []).append(measurement)
    for parts in groups.values():
        _check_one_machine(parts)
    _check_one_model([part for parts in groups.values() for part in parts])
    rows = [
        Row(architecture=name, tower=tower, parts=tuple(parts))
        for (name, tower), parts in groups.items()
    ]
    return sorted(rows, key=_position)


def _position(row: Row) -> tuple[int, str, int]:
    known = ORDER.index(row.architecture) if row.architecture in ORDER else len(ORDER)
    return known, row.architecture, TOWERS.index(row.tower)


def _check_one_machine(parts: list[Measurement]) -> None:
    first, *others = parts
    row = f"{first.architecture} {first.tower}"
    expected = _origin(first)
    for number, other in enumerate(others, start=1):
        differing = [what for what, value in _origin(other).items() if value != expected[what]]
        if differing:
            what = differing[0]
            raise MixedMachinesError(
                f"{row}: one file's {what} is {expected[what]!r}, another's "
                f"{_origin(other)[what]!r}: a row's figures must come from one session on one "
                "machine; measure it again, or leave a file out"
            )
        twice = {name for part in parts[:number] for name in part.cells} & other.cells.keys()
        if twice:
            raise MixedMachinesError(
                f"{row}: {', '.join(sorted(twice))} is in two files: leave one out"
            )


def _origin(part: Measurement) -> dict[str, str]:
    machine = part.machine
    return {
        "host": machine.host,
        "boot_id": machine.boot_id,
        "gpu": machine.gpu,
        "gpu_uuid": machine.gpu_uuid,
        "driver": machine.driver,
        "session": part.session,
    }


def _check_one_model(parts: list[Measurement]) -> None:
    models = sorted({part.machine.gpu for part in parts})
    if len(models) > 1:
        raise MixedMachinesError(
            f"rows come from {' and '.join(models)}: make one table for each model of GPU"
        )

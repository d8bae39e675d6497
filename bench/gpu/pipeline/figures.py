"""The figures of a pipeline's measurement, and the JSON files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from bench.gpu.machine import Machine
from clipfleet.atomic_write import atomic_write

Kind = Literal[
    "embed",
    "embedder",
    "engine",
    "decoders",
    "decoders-resize",
    "tokeniser",
    "dataloader",
    "original",
]
EAGER, COMPILED = "PyTorch eager", "PyTorch compiled"  # engines
CAPTIONS = "captions"  # inputs


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured rate in items a second, or the reason why there is none.

    `items_s` counts while everything runs, `whole_items_s` from the start of the command to its
    end. `inputs` is the size of the photos, or captions; empty for an engine, whose inputs all have
    one size.
    """

    kind: Kind
    inputs: str = ""
    engine: str = ""
    decode: Literal["exact", "gpu"] = "exact"
    gpus: int = 1
    items_s: float | None = None
    whole_items_s: float | None = None
    details: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The figures of each step of a run, and what is common to all.

    Without a GPU, `machine` is None.
    """

    date: str
    conditions: str  # GPU, cores and versions
    machine: Machine | None
    sources: list[str]
    steps: dict[str, list[Figure]]

    @property
    def head(self) -> str:
        """A line for the table."""
        return f"{self.date}: {self.conditions}. Inputs: {', '.join(self.sources)}."

    @property
    def figures(self) -> list[Figure]:
        """The figures of all steps."""
        return [figure for figures in self.steps.values() for figure in figures]

    def is_comparable(self, other: Session) -> bool:
        """Whether both are of one GPU machine since its start, with the same versions."""
        if self.machine is None:
            return False
        return (self.machine, self.conditions) == (other.machine, other.conditions)

    def has(self, step: str) -> bool:
        """Whether all figures of a step were measured."""
        figures = self.steps.get(step, [])
        return bool(figures) and not any(figure.missing for figure in figures)


_FIGURES = TypeAdapter(list[Figure])
_SESSION = TypeAdapter(Session)


def write_session(session: Session, path: Path) -> None:
    """Write a run as JSON."""
    with atomic_write(path) as part:
        part.write_bytes(_SESSION.dump_json(session, indent=2) + b"\n")


def read_session(path: Path) -> Session:
    """Return the run of a JSON file.

    Raises:
        ValueError: The file has another content.
    """
    return _SESSION.validate_json(path.read_bytes())


def add_figure(figure: Figure, path: Path) -> None:
    """Add a figure to the JSON file of a step, which may be cut before its next figure."""
    figures = [*(read_figures(path) if path.exists() else ()), figure]
    write_figures(figures, path)


def write_figures(figures: Sequence[Figure], path: Path) -> None:
    """Write the figures of a step as JSON."""
    with atomic_write(path) as part:
        part.write_bytes(_FIGURES.dump_json(list(figures), indent=2) + b"\n")


def read_figures(path: Path) -> list[Figure]:
    """Return the figures of a step's JSON file.

    Raises:
        ValueError: The file has another content.
    """
    return _FIGURES.validate_json(path.read_bytes())

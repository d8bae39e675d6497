"""The figures of a pipeline's measurement: rates from a dataset's parts, a JSON file, a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from clipfleet.storage.commit.manifest import Manifest, read_records
from clipfleet.storage.format.dataset import Dataset

HEADER = (
    "| measured | engine | images/s, steady | images/s, whole | with |\n|---|---|---:|---:|---|"
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured rate, or the reason why there is none.

    `images_s` counts while everything runs, `whole_images_s` from the start of the command to its
    end.
    """

    measured: str
    engine: str = ""
    images_s: float | None = None
    whole_images_s: float | None = None
    details: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Session:
    """The figures of one run, and the conditions that are common to all."""

    conditions: str
    figures: list[Figure]


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A part: how many vectors it has, which worker wrote it, and when."""

    vectors: int
    worker: str
    written_s: float


def written_parts(root: Path) -> list[WrittenPart]:
    """Return the parts of a dataset on a disk.

    Raises:
        DatasetError: There is no dataset, or it is damaged.
    """
    dataset = Dataset.open(str(root))
    manifest = Manifest(dataset)
    manifest.refresh()
    return [
        WrittenPart(
            vectors=record.vectors,
            worker=record.worker,
            written_s=os.stat(root / record.part).st_mtime,
        )
        for _, record in read_records(dataset, manifest.names)
    ]


def steady_rate(parts: Sequence[WrittenPart]) -> float | None:
    """Return the vectors a second from the moment at which each worker had written a part.

    None if no part was written after this moment.
    """
    firsts: dict[str, float] = {}
    for part in parts:
        firsts[part.worker] = min(part.written_s, firsts.get(part.worker, part.written_s))
    begin_s = max(firsts.values(), default=0.0)
    later = [part for part in parts if part.written_s > begin_s]
    if not later:
        return None
    return sum(part.vectors for part in later) / (max(p.written_s for p in later) - begin_s)


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a Markdown table."""
    return "\n".join([HEADER, *(f"| {' | '.join(_cells(figure))} |" for figure in figures)])


def _cells(figure: Figure) -> Sequence[str]:
    details = f"not measured: {figure.missing}" if figure.missing else figure.details
    rates = (figure.images_s, figure.whole_images_s)
    return (
        figure.measured,
        figure.engine or "–",
        *("–" if rate is None else f"{rate:,.0f}" for rate in rates),
        details or "–",
    )


_FIGURES = TypeAdapter(list[Figure])
_SESSION = TypeAdapter(Session)


def dump_session(session: Session) -> str:
    """Return a run as JSON."""
    return _SESSION.dump_json(session, indent=2).decode() + "\n"


def dump_figures(figures: Sequence[Figure]) -> str:
    """Return the figures of a step as JSON."""
    return _FIGURES.dump_json(list(figures), indent=2).decode() + "\n"


def read_figures(path: Path) -> list[Figure]:
    """Return the figures of a step's JSON file.

    Raises:
        ValueError: The file has another content.
    """
    return _FIGURES.validate_json(path.read_bytes())

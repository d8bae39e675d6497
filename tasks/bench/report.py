"""The report of a measurement: as JSON, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.tasks.bench.stage import Setup, Stage, StageName
from clipfleet.tasks.bench.verdict import Verdict, shown_rate

LABELS: Mapping[StageName, str] = {
    "list": "list the source",
    "read_cold": "read, not cached",
    "read_warm": "read, cached",
    "decode": "read and decode",
    "decode_resize": "read, decode, resize",
    "tokenise": "tokenise",
    "copy": "copy to the GPU",
    "resize": "resize on the GPU",
    "engine": "engine",
    "embedder": "embed in one process",
    "write": "write",
    "whole": "whole way",
}
_HEADER = ("stage", "items/s", "MB/s", "items", "limited by")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured on a sample of a source, and the verdict.

    `classes` counts the sample's failed items by the class of their error.
    """

    source: str
    model: str
    sample_items: int
    setup: Setup
    stages: tuple[Stage, ...]
    classes: Mapping[str, int]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return the report in JSON's types."""
        return {
            "source": self.source,
            "model": self.model,
            "sample_items": self.sample_items,
            "setup": asdict(self.setup),
            "stages": [
                {**asdict(stage), "items_s": stage.items_s, "bytes_s": stage.bytes_s}
                for stage in self.stages
            ],
            "classes": dict(self.classes),
            "bottleneck": self.verdict.bottleneck,
            "share": self.verdict.share,
            "advice": list(self.verdict.advice),
        }

    def lines(self) -> list[str]:
        """Return the table of stages, the failed items, the slowest stage, and the advice."""
        rows = [_HEADER, *(_cells(stage) for stage in self.stages)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [*(_line(row, widths) for row in rows), "", *self._failed(), *self._verdict()]

    def _failed(self) -> Iterator[str]:
        if self.classes:
            failed = sum(self.classes.values())
            yield f"{failed:,} of {self.sample_items:,} items cannot be embedded:"
            yield from (f"  {count:,} × {name}" for name, count in sorted(self.classes.items()))

    def _verdict(self) -> Iterator[str]:
        slowest = next(one for one in self.stages if one.name == self.verdict.bottleneck)
        whole = next(one for one in self.stages if one.name == "whole")
        files = ", with files in the cache," if slowest.name == "read_cold" else ""
        yield (
            f"bottleneck: {LABELS[slowest.name]}, {shown_rate(slowest.items_s)}; the whole way"
            f"{files} makes {shown_rate(whole.items_s)}, {self.verdict.share:.0%} of it"
        )
        yield from (f"- {text}" for text in self.verdict.advice)


def _cells(stage: Stage) -> tuple[str, ...]:
    return (
        LABELS[stage.name],
        shown_rate(stage.items_s).removesuffix("/s"),
        "–" if stage.bytes_s is None else f"{stage.bytes_s / 1e6:,.1f}",
        f"{stage.items:,}",
        stage.limited_by + (f"; {stage.errors:,} errors" if stage.errors else ""),
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """Return a row: the first and the last column to the left, numbers to the right."""
    first, *numbers, last = cells
    aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
    return "  ".join([first.ljust(widths[0]), *aligned, last])

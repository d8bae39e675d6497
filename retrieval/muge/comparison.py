"""The comparison of runtimes: the recall of each, and how far it is from PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

TOLERANCE = 0.2  # points
WAYS = {"text_to_image": "text→image", "image_to_text": "image→text"}  # and in the table
MEASURES = ("R@1", "R@5", "R@10", "mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The result of one runtime, or why there is none.

    `figures` has for each of `WAYS` the values of `MEASURES`, in per cent. `failed` counts the
    items without a vector, which count as misses.
    """

    runtime: str
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    failed: int = 0
    not_run: str = ""

    @property
    def ran(self) -> bool:
        return not self.not_run

    def differences(self, reference: Row) -> dict[str, tuple[float, ...]]:
        """Return this row's figures minus the reference's, in points."""
        return {
            way: tuple(
                a - b for a, b in zip(self.figures[way], reference.figures[way], strict=True)
            )
            for way in WAYS
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The rows of all runtimes, the reference's first."""

    rows: Sequence[Row]

    @property
    def reference(self) -> Row | None:
        """The first runtime that ran."""
        return next((row for row in self.rows if row.ran), None)

    @property
    def largest_difference(self) -> float:
        """The largest difference from the reference, in points."""
        reference = self.reference
        if reference is None:
            return 0.0
        return max(
            abs(points)
            for row in self.rows
            if row.ran
            for values in row.differences(reference).values()
            for points in values
        )

    @property
    def ok(self) -> bool:
        """Whether something ran, nothing failed, and no runtime strays by over `TOLERANCE`."""
        ran = [row for row in self.rows if row.ran]
        whole = all(not row.failed for row in ran)
        return bool(ran) and whole and round(self.largest_difference, 6) <= TOLERANCE

    def lines(self) -> list[str]:
        """Return a Markdown table of each direction, and the verdict."""
        reference = self.reference
        if reference is None:
            return [f"{row.runtime}: not run: {row.not_run}" for row in self.rows]
        lines: list[str] = []
        for way, title in WAYS.items():
            lines += [
                f"| {title} | {' | '.join(MEASURES)} | difference from {reference.runtime} |",
                "|---|" + "---:|" * len(MEASURES) + "---|",
                *(_line(row, reference, way) for row in self.rows),
                "",
            ]
        lines += [
            f"{row.runtime}: {row.failed:,} items have no vector and count as misses"
            for row in self.rows
            if row.failed
        ]
        relation = "within" if round(self.largest_difference, 6) <= TOLERANCE else "over"
        verdict = (
            f"Largest difference from {reference.runtime}: {self.largest_difference:.2f} points, "
            f"{relation} the limit of {TOLERANCE}."
        )
        return [*lines, verdict]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison in JSON's types."""
        reference = self.reference
        return {
            "ok": self.ok,
            "reference": reference.runtime if reference else None,
            "largest_difference": round(self.largest_difference, 6),
            "tolerance": TOLERANCE,
            "measures": list(MEASURES),
            "rows": [asdict(row) for row in self.rows],
        }


def _line(row: Row, reference: Row, way: str) -> str:
    if not row.ran:
        return f"| {row.runtime} |" + " |" * len(MEASURES) + f" not run: {row.not_run} |"
    values = " | ".join(f"{value:.2f}" for value in row.figures[way])
    points = " / ".join(f"{value:+.2f}" for value in row.differences(reference)[way])
    return f"| {row.runtime} | {values} | {points} |"

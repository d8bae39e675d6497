"""The result of a comparison of two datasets, and the rule of its verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipfleet.retrieval.evaluation.recall import Recall

NEIGHBOURS = 10
MIN_COSINE = 0.999  # of the two vectors of an item, as `verify --recompute` demands
MIN_SHARE = 0.99  # of the shared items that reach it
MIN_OVERLAP = 0.9  # of their ten nearest neighbours
RULE = (
    f"same space: {MIN_SHARE:.0%} of the shared ids have a cosine of {MIN_COSINE} or more between "
    f"their two vectors, and their {NEIGHBOURS} nearest neighbours overlap by {MIN_OVERLAP} or more"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosines:
    """The cosines of the two vectors of each shared id; `lowest_id` is the item of the lowest.

    `p01`, `p1` and `p50` are percentiles: p01 is exceeded by 99.9 % of the items. `share` is the
    part that reaches `MIN_COSINE`.
    """

    mean: float
    lowest: float
    lowest_id: str
    p01: float
    p1: float
    p50: float
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecalls:
    """The recall of both directions, with the vectors of one of the two datasets."""

    text_to_image: Recall
    image_to_text: Recall


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What two datasets of the same ids have in common.

    `shared` counts the ids that both have, `only_a` and `only_b` those of one, with the first few.
    `cosines` is None if the widths differ. `overlap` is the mean share, 0 to 1, of the
    `NEIGHBOURS` nearest neighbours that `queries` of the shared items have in both.
    """

    a: str
    b: str
    shared: int
    only_a: int
    only_b: int
    first_only_a: tuple[str, ...]
    first_only_b: tuple[str, ...]
    cosines: Cosines | None
    overlap: float
    queries: int
    recall_a: DatasetRecalls | None = None
    recall_b: DatasetRecalls | None = None

    @property
    def same_space(self) -> bool:
        """Whether rows of both may stand in one dataset or index, by `RULE`."""
        near = self.cosines is not None and self.cosines.share >= MIN_SHARE
        return near and self.overlap >= MIN_OVERLAP

    @property
    def verdict(self) -> str:
        """`same space` or `different space`."""
        return "same space" if self.same_space else "different space"

    def to_json(self) -> dict[str, Any]:
        """Return the result in JSON's types; recalls are in per cent."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        recalls = {name: _recalls_to_json(fields[name]) for name in ("recall_a", "recall_b")}
        cosines = asdict(self.cosines) if self.cosines else None
        return {"verdict": self.verdict, "rule": RULE, **fields, "cosines": cosines, **recalls}

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        lines = [f"{self.verdict}: {self.a} and {self.b}", f"  {RULE}"]
        lines.append(f"  {self.shared:,} ids are in both")
        for path, count, first in (
            (self.a, self.only_a, self.first_only_a),
            (self.b, self.only_b, self.first_only_b),
        ):
            if count:
                shown = ", ".join(map(repr, first))
                lines.append(f"  {count:,} ids are only in {path}, such as {shown}: not compared")
        lines.append(self._cosine_line())
        lines.append(
            f"  overlap of the {NEIGHBOURS} nearest neighbours: {self.overlap:.4f} "
            f"({self.queries:,} items)"
        )
        if self.recall_a and self.recall_b:
            lines += _recall_lines(self.recall_a, self.recall_b)
        return lines

    def _cosine_line(self) -> str:
        if self.cosines is None:
            return "  no cosines: the vectors have different widths"
        found = self.cosines
        return (
            f"  cosines: mean {found.mean:.6f}, median {found.p50:.6f}, 1 % below {found.p1:.6f}, "
            f"0.1 % below {found.p01:.6f}, lowest {found.lowest:.6f} ({found.lowest_id!r}); "
            f"{found.share:.2%} reach {MIN_COSINE}"
        )


def _recalls_to_json(recalls: DatasetRecalls | None) -> dict[str, Any] | None:
    if recalls is None:
        return None
    return {
        "text_to_image": recalls.text_to_image.to_json(),
        "image_to_text": recalls.image_to_text.to_json(),
    }


def _recall_lines(a: DatasetRecalls, b: DatasetRecalls) -> list[str]:
    lines = [f"  {'recall, per cent':18} {'A':>7} {'B':>7} {'B - A':>7}"]
    for name, of_a, of_b in (
        ("text to image", a.text_to_image, b.text_to_image),
        ("image to text", a.image_to_text, b.image_to_text),
    ):
        for depth, left, right in (
            ("R@1", of_a.r1, of_b.r1),
            ("R@5", of_a.r5, of_b.r5),
            ("R@10", of_a.r10, of_b.r10),
            ("mean", of_a.mean_recall, of_b.mean_recall),
        ):
            row = f"{left:7.2f} {right:7.2f} {right - left:+7.2f}"
            lines.append(f"  {name} {depth:4} {row}")
    return lines

"""Plots of a certificate, for its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from clipfleet.retrieval.certificate.certificate import KIND_NAMES, Certificate, Interval, Recall
from clipfleet.retrieval.pages.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    across,
    bar,
    scale,
    svg,
    text,
)

_CLASSES = ("a", "b", "c")  # of the kinds of queries, in order


def recall_by_probes(certificate: Certificate) -> str:
    """Return recall@10 of each kind against the probes, for the settings that were tried."""
    steps = certificate.steps
    most = math.ceil(math.log2(max(step.parameters.probes for step in steps)))
    lowest = min(*(step.recall.low for step in steps), certificate.target.min_recall)
    floor = math.floor(lowest * 10) / 10
    x, y = scale(-0.5, most + 0.5, across=True), scale(floor, 1, across=False)
    lines = [*_axis_y(y, floor, 1.0), across("target", y(certificate.target.min_recall))]
    lines += [
        text(x(power), HEIGHT - BOTTOM + 16, f"{1 << power}", anchor="middle")
        for power in range(most + 1)
    ]
    lines.append(text(WIDTH / 2, HEIGHT - 8, "probes: lists that are read", anchor="middle"))
    for step in steps:
        chosen = step.parameters == certificate.parameters
        for mark, recall in zip(_CLASSES, step.recalls.values(), strict=False):
            lines += _point(x(math.log2(step.parameters.probes)), y, recall, mark, chosen=chosen)
    described = "; ".join(
        f"{step.parameters.probes} probes, re-ranking × {step.parameters.rerank}: "
        + ", ".join(f"{KIND_NAMES[kind]} {at.mean:.3f}" for kind, at in step.recalls.items())
        for step in steps
    )
    return svg("steps", "Recall@10 by the number of lists that are read", described, lines)


def found_of_ten(recalls: Sequence[Recall]) -> str:
    """Return how many queries of each kind found 0 to 10 of their ten nearest rows."""
    shares = [[count / recall.queries for count in recall.found] for recall in recalls]
    y = scale(0, 1, across=False)
    slot = (WIDTH - LEFT - RIGHT) / 11
    wide = (slot - 6) / len(recalls)
    lines = list(_axis_y(y, 0.0, 1.0))
    for found in range(11):
        left = LEFT + found * slot
        lines.append(text(left + slot / 2, HEIGHT - BOTTOM + 16, str(found), anchor="middle"))
        for number, share in enumerate(shares):
            top = y(share[found])
            place = left + 3 + number * wide
            height = HEIGHT - BOTTOM - top
            lines.append(bar(_CLASSES[number], place, top, width=wide - 1, height=height))
    lines.append(text(WIDTH / 2, HEIGHT - 8, "found of the ten nearest rows", anchor="middle"))
    described = "; ".join(
        f"{KIND_NAMES[recall.kind]}: all ten for {share[10]:.1%}, none for {share[0]:.1%}"
        for recall, share in zip(recalls, shares, strict=True)
    )
    return svg("found", "Share of the queries by how much was found", described, lines)


def _axis_y(y: Scale, low: float, high: float) -> Iterator[str]:
    tenths = round((high - low) * 10)
    count = tenths if tenths in (3, 4) else 5
    for number in range(count + 1):
        value = low + (high - low) * number / count
        at = y(value)
        yield across("grid", at)
        yield text(LEFT - 6, at + 4, f"{value:.2f}", anchor="end")


def _point(x: float, y: Scale, recall: Interval, mark: str, *, chosen: bool) -> Iterator[str]:
    """Yield a dot with the bar of its interval; the chosen setting has a ring."""
    low, middle, high = (f"{y(value):.1f}" for value in (recall.low, recall.mean, recall.high))
    yield f'<line class="{mark}" x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{high}"/>'
    yield f'<circle class="{mark}" cx="{x:.1f}" cy="{middle}" r="4"/>'
    if chosen:
        yield f'<circle class="chosen" cx="{x:.1f}" cy="{middle}" r="8"/>'

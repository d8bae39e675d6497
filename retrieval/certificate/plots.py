"""Plots of a certificate: small SVG pictures, to stand in an HTML page.

Colours are those of the page's style sheet (classes `a`, `b`, `axis`, `grid`, `target`), so that
they follow its light and its dark form. Each picture has a title and a description for readers who
do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from clipfleet.retrieval.certificate.certificate import KIND_NAMES, Certificate, Interval, Recall

_WIDTH, _HEIGHT = 420, 240  # of the view; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44  # margins
_CLASSES = ("a", "b", "c")  # of the kinds of queries, in order

Scale = Callable[[float], float]


def recall_by_probes(certificate: Certificate) -> str:
    """Return recall@10 of each kind against the probes, for the settings that were tried."""
    steps = certificate.steps
    most = math.ceil(math.log2(max(step.parameters.probes for step in steps)))
    lowest = min(*(step.recall.low for step in steps), certificate.target.min_recall)
    floor = math.floor(lowest * 10) / 10
    x, y = _scale(-0.5, most + 0.5, across=True), _scale(floor, 1, across=False)
    lines = [*_axis_y(y, floor, 1.0), _across("target", y(certificate.target.min_recall))]
    lines += [
        _text(x(power), _HEIGHT - _BOTTOM + 16, f"{1 << power}", anchor="middle")
        for power in range(most + 1)
    ]
    lines.append(_text(_WIDTH / 2, _HEIGHT - 8, "probes: lists that are read", anchor="middle"))
    for step in steps:
        chosen = step.parameters == certificate.parameters
        for mark, recall in zip(_CLASSES, step.recalls.values(), strict=False):
            lines += _point(x(math.log2(step.parameters.probes)), y, recall, mark, chosen=chosen)
    described = "; ".join(
        f"{step.parameters.probes} probes, re-ranking × {step.parameters.rerank}: "
        + ", ".join(f"{KIND_NAMES[kind]} {at.mean:.3f}" for kind, at in step.recalls.items())
        for step in steps
    )
    return _picture("steps", "Recall@10 by the number of lists that are read", described, lines)


def found_of_ten(recalls: Sequence[Recall]) -> str:
    """Return how many queries of each kind found 0 to 10 of their ten nearest rows."""
    shares = [[count / recall.queries for count in recall.found] for recall in recalls]
    y = _scale(0, 1, across=False)
    slot = (_WIDTH - _LEFT - _RIGHT) / 11
    wide = (slot - 6) / len(recalls)
    lines = list(_axis_y(y, 0.0, 1.0))
    for found in range(11):
        left = _LEFT + found * slot
        lines.append(_text(left + slot / 2, _HEIGHT - _BOTTOM + 16, str(found), anchor="middle"))
        for number, share in enumerate(shares):
            top = y(share[found])
            lines.append(
                f'<rect class="{_CLASSES[number]}" x="{left + 3 + number * wide:.1f}" '
                f'y="{top:.1f}" width="{wide - 1:.1f}" height="{_HEIGHT - _BOTTOM - top:.1f}"/>'
            )
    lines.append(_text(_WIDTH / 2, _HEIGHT - 8, "found of the ten nearest rows", anchor="middle"))
    described = "; ".join(
        f"{KIND_NAMES[recall.kind]}: all ten for {share[10]:.1%}, none for {share[0]:.1%}"
        for recall, share in zip(recalls, shares, strict=True)
    )
    return _picture("found", "Share of the queries by how much was found", described, lines)


def _picture(name: str, title: str, description: str, lines: Iterable[str]) -> str:
    labelled = f'aria-labelledby="{name}-title {name}-desc"'
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" {labelled}>',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-desc">{escape(description)}</desc>',
            *lines,
            "</svg>",
        ]
    )


def _scale(low: float, high: float, *, across: bool) -> Scale:
    """Return the function from a value to its place in pixels."""
    start, end = (_LEFT, _WIDTH - _RIGHT) if across else (_HEIGHT - _BOTTOM, _TOP)
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _axis_y(y: Scale, low: float, high: float) -> Iterator[str]:
    tenths = round((high - low) * 10)
    count = tenths if tenths in (3, 4) else 5
    for number in range(count + 1):
        value = low + (high - low) * number / count
        at = y(value)
        yield _across("grid", at)
        yield _text(_LEFT - 6, at + 4, f"{value:.2f}", anchor="end")


def _across(mark: str, y: float) -> str:
    return f'<line class="{mark}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _point(x: float, y: Scale, recall: Interval, mark: str, *, chosen: bool) -> Iterator[str]:
    """Yield a dot with the bar of its interval; the chosen setting has a ring."""
    low, middle, high = (f"{y(value):.1f}" for value in (recall.low, recall.mean, recall.high))
    yield f'<line class="{mark}" x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{high}"/>'
    yield f'<circle class="{mark}" cx="{x:.1f}" cy="{middle}" r="4"/>'
    if chosen:
        yield f'<circle class="chosen" cx="{x:.1f}" cy="{middle}" r="8"/>'


def _text(x: float, y: float, words: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

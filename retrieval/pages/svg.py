"""Small SVG pictures, to stand in an HTML page.

Colours are those of the page's style sheet (classes `a`, `b`, `c`, `grid`, `target`), so that they
follow its light and its dark form. Each picture has a title and a description for readers who do
not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

WIDTH, HEIGHT = 420, 240  # of the view; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # margins

Scale = Callable[[float], float]


def svg(
    name: str, title: str, description: str, lines: Iterable[str], *, height: int = HEIGHT
) -> str:
    """Return a picture; `name` is its own in its page."""
    labelled = f'aria-labelledby="{name}-title {name}-desc"'
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" {labelled}>',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-desc">{escape(description)}</desc>',
            *lines,
            "</svg>",
        ]
    )


def scale(low: float, high: float, *, across: bool) -> Scale:
    """Return the function from a value to its place in pixels."""
    start, end = (LEFT, WIDTH - RIGHT) if across else (HEIGHT - BOTTOM, TOP)
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def across(mark: str, y: float) -> str:
    """Return a line from the left margin to the right one."""
    return f'<line class="{mark}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def bar(mark: str, x: float, y: float, *, width: float, height: float) -> str:
    """Return a bar; (x, y) is its upper left corner."""
    return (
        f'<rect class="{mark}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def text(x: float, y: float, words: str, *, anchor: str) -> str:
    """Return words; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

"""The pieces of an SVG picture: the document, text, and bars with their figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

BAR_HEIGHT = 12  # pixels


def document(width: int, height: int, title: str, lines: Iterable[str]) -> str:
    """Return an SVG file with a title and these elements."""
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}"',
            '  font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect {size} fill="#ffffff"/>',
            text(9, 20, title, weight="bold"),
            *lines,
            "</svg>\n",
        ]
    )


def bar(x: int, y: int, length: float, colour: str, figure: str) -> Iterator[str]:
    """Yield a bar to the right of (x, y), and its figure behind it."""
    yield (f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{colour}"/>')
    yield text(x + round(length) + 5, y + 10, figure)


def text(
    x: int,
    y: int,
    words: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#222222",
) -> str:
    """Return words at a place."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )

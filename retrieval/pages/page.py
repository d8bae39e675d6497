"""The pieces of an HTML page: its style, tables, figures and lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from clipfleet.retrieval.pages.visible import visible

# A browser loads nothing for a page, and runs no script in it.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'\">"
)

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #59636e; --line: #d1d9e0;
  --a: #0072b2; --b: #c24a00; --c: #00795a; --good: #e6f4ea; --poor: #fdf0e3; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6eaef; --faint: #9aa5b1;
  --line: #39424c; --a: #56b4e9; --b: #f0a04b; --c: #3fcf9f; --good: #16301f; --poor: #3a2812; } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { padding: .75rem 1rem; border-radius: .5rem; background: var(--good); }
.cannot { background: var(--poor); } .cannot ul { margin: 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: bottom; } td { white-space: nowrap; }
.caption { margin: .5rem 0 0; color: var(--faint); }
.plots { display: grid; gap: 1.5rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; max-width: 32rem; } figcaption { color: var(--faint); font-size: .9rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 12px; }
.grid { stroke: var(--line); } .target { stroke: var(--ink); stroke-dasharray: 5 4; }
.a { fill: var(--a); stroke: var(--a); } .b { fill: var(--b); stroke: var(--b); }
.c { fill: var(--c); stroke: var(--c); }
.chosen { fill: none; stroke: var(--ink); stroke-width: 2; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
.key.a { background: var(--a); } .key.b { background: var(--b); } .key.c { background: var(--c); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1rem; }
dt { color: var(--faint); } dd { margin: 0; }
"""


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return a page of these pieces of HTML. A browser loads nothing for it."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            POLICY,
            f"<title>{escape(visible(title))}</title>",
            f"<style>{STYLE}{style}</style>",
            "<main>",
            *body,
            "</main>",
            "</html>",
            "",
        ]
    )


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table with a head; the cells are HTML. A narrow screen scrolls it sideways."""
    label = f'aria-label="{escape(caption)}"'
    yield f'<p class="caption">{escape(caption)}</p>'
    yield f'<div class="wide" tabindex="0" role="region" {label}><table {label}><thead><tr>'
    yield "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def figure(picture: str, caption: str) -> Iterator[str]:
    """Yield a picture, which is HTML, and the words below it."""
    yield f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def bullets(lines: Iterable[str]) -> Iterator[str]:
    """Yield a list; the lines are HTML."""
    yield "<ul>"
    yield from (f"<li>{line}</li>" for line in lines)
    yield "</ul>"


def facts(named: Mapping[str, str]) -> Iterator[str]:
    """Yield names with their values, which are HTML."""
    yield "<dl>"
    yield from (f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in named.items())
    yield "</dl>"

"""The parts of pages that show items: one HTML file each, which needs nothing else.

The pictures are in the file. It has no script, and its policy lets a browser load nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import StorageError
from clipfleet.retrieval.pages.items import NAME_CHARACTERS, OpenImage, picture, quoted
from clipfleet.retrieval.pages.page import POLICY
from clipfleet.retrieval.pages.visible import link_of, shortened, visible
from clipfleet.retrieval.search.answers import Hit

_STYLE = Path(__file__).with_name("contact_sheet.css")


def write_page(path: Path, title: str, body: Iterable[str]) -> None:
    """Write a page of these pieces of HTML; it replaces an older file at the end.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
            file.write(
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"{POLICY}\n"
                f"<title>{escape(visible(title))}</title>\n"
                f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
            )
            for piece in body:
                file.write(piece)
            file.write("</body>\n</html>\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def tile(hit: Hit, open_image: OpenImage) -> str:
    """Return an item of a list: a picture that links to its file, its place, cosine and id."""
    shown = picture(hit.value, f"Picture {hit.id}", open_image)
    link = link_of(hit.value)
    if link is not None:
        shown = f'<a href="{escape(link)}">{shown}</a>'
    return (
        f"<li><figure>{shown}\n<figcaption>{_place(hit)} {quoted(hit.id)}</figcaption>"
        "</figure></li>\n"
    )


def line(hit: Hit) -> str:
    """Return an item of a list: the place and cosine of a text, the text, and its id."""
    text = shortened(hit.value, NAME_CHARACTERS)
    return f"<li>{_place(hit)} <q>{quoted(text)}</q> <small>{quoted(hit.id)}</small></li>\n"


def _place(hit: Hit) -> str:
    return (
        f'<span class="rank">{hit.rank}</span> <data value="{hit.score:.6f}">{hit.score:.3f}</data>'
    )

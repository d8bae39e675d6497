"""The parts of pages that show items: one HTML file each, which needs nothing else.

The pictures are in the file. It has no script, and its policy lets a browser load nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from PIL import Image

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import ItemError, StorageError
from clipfleet.retrieval.search.answers import Hit
from clipfleet.retrieval.search.thumbnails import thumbnail
from clipfleet.retrieval.search.visible import link_of, shortened, visible

OpenImage = Callable[[str], Image.Image]  # of a uri; raises ItemError or StorageError

NAME_CHARACTERS = 400  # of a text, which may have a million

_SIDE = 320  # pixels of a thumbnail; a column is half as wide, for screens with two pixels for one
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
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                "img-src data:; style-src 'unsafe-inline'\">\n"
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


def picture(uri: str, alt: str, open_image: OpenImage) -> str:
    """Return the thumbnail of a picture, or the reason why there is none."""
    try:
        small = thumbnail(open_image(uri), _SIDE)
    except (ItemError, StorageError, OSError, ValueError) as error:
        return f'<span class="missing">{quoted(alt)} is not shown: {quoted(str(error))}</span>'
    data = b64encode(small.data).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{escape(visible(alt))}">'
    )


def quoted(text: str) -> str:
    """Return a text of others in HTML; it cannot turn the order of the text around it."""
    return f"<bdi>{escape(visible(text))}</bdi>"

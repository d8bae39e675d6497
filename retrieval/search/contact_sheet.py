"""The contact sheet: one HTML file with queries and their hits, which needs nothing else.

The pictures are in the file. It has no script, and its policy lets a browser load nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.atomic_write import atomic_write
from clipfleet.errors import ItemError, StorageError
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.search.answers import Answer, Hit
from clipfleet.retrieval.search.thumbnails import thumbnail
from clipfleet.retrieval.search.visible import link_of, shortened, visible

OpenImage = Callable[[str], Image.Image]  # of a uri; raises ItemError or StorageError

_SIDE = 320  # pixels of a thumbnail; a column is half as wide, for screens with two pixels for one
_TITLE_CHARACTERS = 60
_NAME_CHARACTERS = 400  # of a text, which may have a million
_STYLE = Path(__file__).with_name("contact_sheet.css")


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """What a contact sheet says of its search; `queries` counts those that are not shown too."""

    index: str
    model: str
    tower: Tower  # of the index
    rows: int
    k: int
    queries: int

    @classmethod
    def of(cls, index: Index, *, k: int, queries: int) -> Heading:
        card = index.card.model
        return cls(
            index=str(index.path),
            model=f"{card.architecture} {card.tower} {card.precision}",
            tower=card.tower,
            rows=len(index),
            k=k,
            queries=queries,
        )


def write_contact_sheet(
    path: Path, heading: Heading, answers: Sequence[Answer], open_image: OpenImage
) -> None:
    """Write the contact sheet of answers; it replaces an older file at the end.

    A picture that cannot be read is a tile with the reason.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
            for piece in _page(heading, answers, open_image):
                file.write(piece)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _page(heading: Heading, answers: Sequence[Answer], open_image: OpenImage) -> Iterator[str]:
    title = shortened(answers[0].name, _TITLE_CHARACTERS) if answers else "no query"
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(visible(title))} – clipfleet search</title>\n"
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
    )
    yield from _header(heading, answers)
    yield "<main>\n"
    for number, answer in enumerate(answers, 1):
        yield from _section(number, answer, heading.tower, open_image)
    yield "</main>\n</body>\n</html>\n"


def _header(heading: Heading, answers: Sequence[Answer]) -> Iterator[str]:
    things = "pictures" if heading.tower == "img" else "texts"
    failed = sum(answer.failure is not None for answer in answers)
    failures = f"; {failed:,} failed" if failed else ""
    shown = "1 query" if len(answers) == 1 else f"{len(answers):,} queries"
    if heading.queries > len(answers):
        shown = f"The first {len(answers):,} of {heading.queries:,} queries"
    yield (
        "<header>\n<h1>Search results</h1>\n"
        f"<p>{shown}, the {heading.k:,} nearest of {heading.rows:,} {things} each{failures}.</p>\n"
        "<dl>\n"
        f"<dt>Index</dt><dd>{_text(heading.index)}</dd>\n"
        f"<dt>Model</dt><dd>{_text(heading.model)}</dd>\n</dl>\n"
        "<p>The number at each hit is its cosine with the query: 1 is the same direction.</p>\n"
    )
    if len(answers) > 1:
        yield '<nav aria-label="Queries">\n<ol>\n'
        for number, answer in enumerate(answers, 1):
            name = shortened(answer.name, _TITLE_CHARACTERS)
            yield f'<li><a href="#q{number}">{_text(name)}</a></li>\n'
        yield "</ol>\n</nav>\n"
    yield "</header>\n"


def _section(number: int, answer: Answer, tower: Tower, open_image: OpenImage) -> Iterator[str]:
    name = shortened(answer.name, _NAME_CHARACTERS)
    yield f'<section aria-labelledby="q{number}">\n<h2 id="q{number}">{_text(name)}</h2>\n'
    if answer.tower == "img" and answer.asked is not None:
        picture = _picture(answer.asked, f"The query {name}", open_image)
        yield f'<div class="asked">{picture}</div>\n'
    yield f'<p class="about">{_about(answer)}</p>\n'
    if answer.failure is not None:
        reason = f"{answer.failure.error}: {answer.failure.message}"
        yield f'<p class="failure"><strong>No hits.</strong> {_text(reason)}</p>\n'
    else:
        yield f'<ol role="list" class="{"tiles" if tower == "img" else "lines"}">\n'
        for hit in answer.hits:
            yield _tile(hit, open_image) if tower == "img" else _line(hit)
        yield "</ol>\n"
    yield "</section>\n"


def _about(answer: Answer) -> str:
    if answer.tower == "img":
        return f"Query by picture, {_text(answer.asked or '')}"
    kind = "text" if answer.tower else "vector"
    return f"Query by {kind}, id {_text(answer.query_id)}"


def _tile(hit: Hit, open_image: OpenImage) -> str:
    picture = _picture(hit.value, f"Picture {hit.id}", open_image)
    link = link_of(hit.value)
    if link is not None:
        picture = f'<a href="{escape(link)}">{picture}</a>'
    return (
        f"<li><figure>{picture}\n<figcaption>{_place(hit)} {_text(hit.id)}</figcaption>"
        "</figure></li>\n"
    )


def _line(hit: Hit) -> str:
    text = shortened(hit.value, _NAME_CHARACTERS)
    return f"<li>{_place(hit)} <q>{_text(text)}</q> <small>{_text(hit.id)}</small></li>\n"


def _place(hit: Hit) -> str:
    return (
        f'<span class="rank">{hit.rank}</span> <data value="{hit.score:.6f}">{hit.score:.3f}</data>'
    )


def _picture(uri: str, alt: str, open_image: OpenImage) -> str:
    """Return the thumbnail of a picture, or the reason why there is none."""
    try:
        small = thumbnail(open_image(uri), _SIDE)
    except (ItemError, StorageError, OSError, ValueError) as error:
        return f'<span class="missing">{_text(alt)} is not shown: {_text(str(error))}</span>'
    data = b64encode(small.data).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{escape(visible(alt))}">'
    )


def _text(text: str) -> str:
    return f"<bdi>{escape(visible(text))}</bdi>"

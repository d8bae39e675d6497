"""The contact sheet: a page with queries and their hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfleet.architectures import Tower
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.pages.items import NAME_CHARACTERS, OpenImage, picture, quoted
from clipfleet.retrieval.pages.visible import shortened
from clipfleet.retrieval.search.answers import Answer
from clipfleet.retrieval.search.sheet import line, tile, write_page

_TITLE_CHARACTERS = 60


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
    title = shortened(answers[0].name, _TITLE_CHARACTERS) if answers else "no query"
    write_page(path, f"{title} – clipfleet search", _body(heading, answers, open_image))


def _body(heading: Heading, answers: Sequence[Answer], open_image: OpenImage) -> Iterator[str]:
    yield from _header(heading, answers)
    yield "<main>\n"
    for number, answer in enumerate(answers, 1):
        yield from _section(number, answer, heading.tower, open_image)
    yield "</main>\n"


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
        f"<dt>Index</dt><dd>{quoted(heading.index)}</dd>\n"
        f"<dt>Model</dt><dd>{quoted(heading.model)}</dd>\n</dl>\n"
        "<p>The number at each hit is its cosine with the query: 1 is the same direction.</p>\n"
    )
    if len(answers) > 1:
        yield '<nav aria-label="Queries">\n<ol>\n'
        for number, answer in enumerate(answers, 1):
            name = shortened(answer.name, _TITLE_CHARACTERS)
            yield f'<li><a href="#q{number}">{quoted(name)}</a></li>\n'
        yield "</ol>\n</nav>\n"
    yield "</header>\n"


def _section(number: int, answer: Answer, tower: Tower, open_image: OpenImage) -> Iterator[str]:
    name = shortened(answer.name, NAME_CHARACTERS)
    yield f'<section aria-labelledby="q{number}">\n<h2 id="q{number}">{quoted(name)}</h2>\n'
    if answer.tower == "img" and answer.asked is not None:
        shown = picture(answer.asked, f"The query {name}", open_image)
        yield f'<div class="asked">{shown}</div>\n'
    yield f'<p class="about">{_about(answer)}</p>\n'
    if answer.failure is not None:
        reason = f"{answer.failure.error}: {answer.failure.message}"
        yield f'<p class="failure"><strong>No hits.</strong> {quoted(reason)}</p>\n'
    else:
        yield f'<ol role="list" class="{"tiles" if tower == "img" else "lines"}">\n'
        for hit in answer.hits:
            yield tile(hit, open_image) if tower == "img" else line(hit)
        yield "</ol>\n"
    yield "</section>\n"


def _about(answer: Answer) -> str:
    if answer.tower == "img":
        return f"Query by picture, {quoted(answer.asked or '')}"
    kind = "text" if answer.tower else "vector"
    return f"Query by {kind}, id {quoted(answer.query_id)}"

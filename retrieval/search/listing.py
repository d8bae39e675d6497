"""Answers as lines for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipfleet.architectures import Tower
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.pages.visible import short_path, shortened, visible
from clipfleet.retrieval.search.answers import Answer, Hit, value_column
from clipfleet.retrieval.search.search import Searched

_NAME_CHARACTERS = 400  # of a query
_VALUE_CHARACTERS = 100  # of a text that is a hit


def search_lines(index: Index, found: Searched, shown: Sequence[Answer]) -> list[str]:
    """Return the lines of the answers that are shown, or without any how many there are."""
    if shown:
        return list(answer_lines(shown, index.card.model.tower))
    rate = found.queries / found.seconds
    count = f"{found.queries:,} queries in {found.seconds:.1f} s ({rate:,.0f}/s)"
    return [f"{count}, {found.failed:,} of them failed"]


def search_json(
    index: Index, found: Searched, shown: Sequence[Answer], *, k: int
) -> dict[str, Any]:
    """Return a search for JSON, with the answers that are shown."""
    return {
        "index": str(index.path),
        "rows": len(index),
        "k": k,
        "queries": found.queries,
        "failed": found.failed,
        "seconds": round(found.seconds, 3),
        "answers": [answer_json(answer, value_column(index)) for answer in shown],
    }


def answer_lines(answers: Sequence[Answer], tower: Tower) -> Iterator[str]:
    """Yield the lines of answers: of each hit the rank, the cosine, the id and the uri or text."""
    for number, answer in enumerate(answers):
        if number:
            yield ""
        yield visible(shortened(answer.name, _NAME_CHARACTERS))
        if answer.failure is not None:
            yield f"  no hits: {answer.failure.error}: {visible(answer.failure.message)}"
        width = max((len(visible(hit.id)) for hit in answer.hits), default=0)
        for hit in answer.hits:
            value = visible(_shown_value(hit, tower))
            yield f"  {hit.rank:>3}  {hit.score:6.3f}  {visible(hit.id):<{width}}  {value}"


def answer_json(answer: Answer, value: str) -> dict[str, Any]:
    """Return an answer for JSON; `value` is uri or text, as the index has it."""
    asked = {} if answer.tower is None else {_asked_name(answer.tower): answer.asked}
    failure = answer.failure
    return {
        "id": answer.query_id,
        **asked,
        "hits": [
            {"rank": hit.rank, "id": hit.id, "score": round(hit.score, 6), value: hit.value}
            for hit in answer.hits
        ],
        "error": failure.error if failure else None,
        "message": failure.message if failure else None,
    }


def _asked_name(tower: Tower) -> str:
    return "uri" if tower == "img" else "text"


def _shown_value(hit: Hit, tower: Tower) -> str:
    if tower == "img":
        return short_path(hit.value)
    return shortened(hit.value, _VALUE_CHARACTERS)

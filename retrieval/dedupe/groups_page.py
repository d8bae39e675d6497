"""A page that shows groups of near-duplicates: the kept row, and those that were dropped for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipfleet.retrieval.dedupe.table import METADATA_KEY
from clipfleet.retrieval.pages.items import NAME_CHARACTERS, OpenImage, picture, quoted
from clipfleet.retrieval.pages.visible import shortened
from clipfleet.retrieval.search.answers import Hit
from clipfleet.retrieval.search.sheet import line, tile, write_page

_GROUPS = 100
_ROWS = 12  # of a group


def write_groups_page(path: Path, table: Path, open_image: OpenImage) -> None:
    """Write the page of the groups in a file that `dedupe` wrote.

    It has the 100 groups with the lowest cosines, which a larger threshold would part first, and of
    each group the twelve dropped rows with the lowest cosines. A picture that cannot be read is a
    tile with the reason.

    Raises:
        StorageError: The page cannot be written.
    """
    write_page(path, "Near-duplicates – clipfleet dedupe", _body(table, open_image))


def _body(table: Path, open_image: OpenImage) -> Iterator[str]:
    facts = json.loads(pq.read_schema(table).metadata[METADATA_KEY.encode()])
    grouped = pq.read_table(table, filters=pc.field("group_size") > 1)
    dropped = grouped.filter(~pc.field("kept")).sort_by(
        [("cosine", "ascending"), ("id", "ascending")]
    )
    chosen = list(dict.fromkeys(dropped["representative"].to_pylist()))[:_GROUPS]
    yield _header(facts, len(chosen))
    yield "<main>\n"
    for number, id_ in enumerate(chosen, 1):
        [kept] = grouped.filter(pc.field("id") == id_).to_pylist()
        rows = dropped.filter(pc.field("representative") == id_).slice(0, _ROWS)
        yield from _section(number, kept, rows, open_image)
    yield "</main>\n"


def _header(facts: dict[str, Any], shown: int) -> str:
    groups = f"All {shown:,} groups are shown, those with the lowest cosines first."
    if shown < facts["groups"]:
        groups = f"Of {facts['groups']:,} groups, the {shown:,} with the lowest cosines are shown."
    return (
        "<header>\n<h1>Near-duplicates</h1>\n"
        f"<p>{facts['rows']:,} rows: {facts['kept']:,} kept, {facts['dropped']:,} dropped, at a "
        f"cosine of {facts['threshold']:g} or more. {groups}</p>\n"
        f"<dl>\n<dt>Dataset</dt><dd>{quoted(facts['dataset'])}</dd>\n</dl>\n"
        "<p>The number at each dropped row is its cosine with the kept row above it.</p>\n"
        "</header>\n"
    )


def _section(
    number: int, kept: dict[str, Any], dropped: pa.Table, open_image: OpenImage
) -> Iterator[str]:
    images = "uri" in kept
    value = kept["uri" if images else "text"]
    name = kept["id"] if images else shortened(value, NAME_CHARACTERS)
    count = kept["group_size"] - 1
    about = "Kept" if images else f"Kept, id {quoted(kept['id'])}"
    more = ""
    if count > dropped.num_rows:
        more = f", of which the {dropped.num_rows} with the lowest cosines are shown"
    yield f'<section aria-labelledby="g{number}">\n<h2 id="g{number}">{quoted(name)}</h2>\n'
    if images:
        shown = picture(value, f"The kept picture {name}", open_image)
        yield f'<div class="asked">{shown}</div>\n'
    yield f'<p class="about">{about}; {count:,} dropped{more}</p>\n'
    yield f'<ol role="list" class="{"tiles" if images else "lines"}">\n'
    for rank, row in enumerate(dropped.to_pylist(), 1):
        hit = Hit(
            rank=rank, id=row["id"], value=row["uri" if images else "text"], score=row["cosine"]
        )
        yield tile(hit, open_image) if images else line(hit)
    yield "</ol>\n</section>\n"

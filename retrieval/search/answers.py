"""Answers: the nearest rows of an index for each query, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipfleet.architectures import Tower
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.search.queries import NoVector, Queries

NO_NEIGHBOUR = "no_neighbour"  # an approximate search read lists without a row

_NONE_FOUND = NoVector(
    error=NO_NEIGHBOUR, message="the search read no row: search with more --probes"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A row of an index that is near to a query: its id, its uri or text, and the cosine."""

    rank: int
    id: str
    value: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A query and its hits, best first; with `failure` there are none."""

    query_id: str
    tower: Tower | None
    asked: str | None
    hits: list[Hit]
    failure: NoVector | None

    @property
    def name(self) -> str:
        """The text, or the name of the image's file; the id if there is neither."""
        if self.asked is None or not self.asked.strip():
            return f"query {self.query_id}"
        return self.asked.rsplit("/", 1)[-1] if self.tower == "img" else self.asked


def answer_schema(value: str) -> pa.Schema:
    """Return the columns of answers; `value` is uri or text, as the index has it.

    A query has a row for each hit, or one row with `error` and without a rank.
    """
    return pa.schema(
        [
            pa.field("query", pa.int64(), nullable=False),  # the position, counted from 0
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("rank", pa.int32()),  # counted from 1
            pa.field("id", pa.string()),
            pa.field("score", pa.float32()),
            pa.field(value, pa.string()),
            pa.field("error", pa.string()),
            pa.field("message", pa.string()),
        ]
    )


def value_column(index: Index) -> str:
    """Return the name of an index's values: uri for images, text for texts."""
    return "uri" if index.card.model.tower == "img" else "text"


def answer(index: Index, queries: Queries, k: int, parameters: SearchParameters | None) -> pa.Table:
    """Return the answers of queries, in their order, with the columns of `answer_schema`.

    Raises:
        DatasetError: The index is damaged.
    """
    count = len(queries)
    rows = np.full((count, k), -1, np.int64)
    scores = np.full((count, k), -np.inf, np.float32)
    asked = np.array([n for n in range(count) if n not in queries.failures], np.int64)
    if len(asked):
        found = index.search(queries.vectors[asked], k, parameters=parameters)
        rows[asked, : found.rows.shape[1]] = found.rows
        scores[asked, : found.rows.shape[1]] = found.scores
    hits = _hit_rows(index, queries, rows, scores)
    failures = queries.failures | {int(n): _NONE_FOUND for n in asked if rows[n, 0] < 0}
    if not failures:
        return hits
    table = pa.concat_tables([hits, _failure_rows(queries, failures, hits.schema)])
    return table.sort_by([("query", "ascending"), ("rank", "ascending")])


def answers_of(queries: Queries, table: pa.Table, value: str) -> Iterator[Answer]:
    """Yield the answers of queries, from the table that `answer` returned."""
    hits: dict[int, list[Hit]] = {}
    failures: dict[int, NoVector] = {}
    for row in table.to_pylist():
        position = row["query"] - queries.first
        if row["error"] is not None:
            failures[position] = NoVector(error=row["error"], message=row["message"])
            continue
        hit = Hit(rank=row["rank"], id=row["id"], value=row[value], score=row["score"])
        hits.setdefault(position, []).append(hit)
    for n, query_id in enumerate(queries.ids):
        yield Answer(
            query_id=query_id,
            tower=queries.tower,
            asked=queries.asked[n],
            hits=hits.get(n, []),
            failure=failures.get(n),
        )


def _hit_rows(index: Index, queries: Queries, rows: np.ndarray, scores: np.ndarray) -> pa.Table:
    schema = answer_schema(value_column(index))
    at, place = np.nonzero(rows >= 0)  # (h,), in the order of queries and ranks
    items = index.items(rows[at, place])
    nothing = pa.nulls(len(at), pa.string())
    columns = [
        pa.array(at + queries.first),
        pa.array(queries.ids, pa.string()).take(pa.array(at)),
        pa.array((place + 1).astype(np.int32)),
        items["id"],
        pa.array(scores[at, place]),
        items[value_column(index)],
        nothing,
        nothing,
    ]
    return pa.table(columns, schema=schema)


def _failure_rows(queries: Queries, failures: dict[int, NoVector], schema: pa.Schema) -> pa.Table:
    rows = [
        {
            "query": queries.first + n,
            "query_id": queries.ids[n],
            "error": failure.error,
            "message": failure.message,
        }
        for n, failure in failures.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema)

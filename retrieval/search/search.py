"""A search: batches of queries become answers, which are kept in a file, or shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import StorageError
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.search.answers import (
    Answer,
    answer,
    answer_schema,
    answers_of,
    value_column,
)
from clipfleet.retrieval.search.queries import Queries

_BATCH_QUERIES = 1024
_BATCH_HITS = 1 << 18  # in memory at once


@dataclass(kw_only=True)
class Searched:
    """How many queries a search had, how many of them failed, and the first answers."""

    queries: int = 0
    failed: int = 0
    seconds: float = 0.0  # with the start of the engines
    answers: list[Answer] = field(default_factory=list)


def batch_size(k: int) -> int:
    """Return how many queries are answered at once; memory holds their vectors and their hits."""
    return max(1, min(_BATCH_QUERIES, _BATCH_HITS // k))


def search(
    index: Index,
    batches: Iterable[Queries],
    k: int,
    *,
    parameters: SearchParameters | None = None,
    out: Path | None = None,
    keep: int,
) -> Searched:
    """Answer queries batch by batch; write all answers to `out`, and return the first `keep`.

    `out` is a Parquet file with the columns of `answer_schema`; it appears whole, at the end.

    Raises:
        DatasetError: The index is damaged.
        StorageError: The file cannot be written.
    """
    done, value = Searched(), value_column(index)
    with answer_file(out, answer_schema(value)) if out else nullcontext() as file:
        for queries in batches:
            table = answer(index, queries, k, parameters)
            if file is not None:
                file.write_table(table)
            done.queries += len(queries)
            done.failed += table["error"].length() - table["error"].null_count
            missing = keep - len(done.answers)
            done.answers += islice(answers_of(queries, table, value), missing)
    return done


@contextmanager
def answer_file(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield what writes the Parquet file at `path`, which replaces an older one at the end.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with atomic_write(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as file:
            yield file
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error

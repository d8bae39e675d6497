"""A LanceDB database: a folder with one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipfleet.errors import DependencyError
from clipfleet.retrieval.export.rows import Rows

TABLE = "vectors"


class LanceDatabase:
    """The table `vectors` with the dataset's columns and types."""

    def write(self, path: Path, rows: Rows) -> None:
        tables = rows.tables()
        batches = (batch for table in tables for batch in table.to_batches())
        _lancedb().connect(path).create_table(
            TABLE, pa.RecordBatchReader.from_batches(rows.schema, batches)
        )

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        table = _lancedb().connect(path).open_table(TABLE)
        if table.schema.field("embedding").type != rows.schema.field("embedding").type:
            raise ValueError(f"its vectors are {table.schema.field('embedding').type}")
        for batch in table.search().select(["id"]).limit(rows.count).to_batches():
            yield from batch["id"].to_pylist()


def _lancedb() -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise DependencyError(
            f"LanceDB is not installed ({error}): install the package lancedb"
        ) from error
    return lancedb

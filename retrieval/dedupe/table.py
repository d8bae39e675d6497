"""The result as a Parquet file: every id once, with its representative."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import StorageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.dedupe.leaders import Groups
from clipfleet.retrieval.dedupe.rows import Rows
from clipfleet.storage.format.parts import value_column

METADATA_KEY = "clipfleet.dedupe"  # JSON in the file's footer


def write_table(
    path: Path, dataset: Dataset, rows: Rows, groups: Groups, *, facts: dict[str, Any]
) -> None:
    """Write a row for each row of the dataset, in its order; the file appears whole.

    Columns: id, uri or text, kept, representative (an id; a kept row's own), cosine with it,
    group_size.

    Raises:
        DatasetError: A part is damaged, or was moved away or replaced.
        StorageError: The disk refuses a write.
    """
    value = value_column(dataset.model.tower)
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field(value, pa.string(), nullable=False),
            pa.field("kept", pa.bool_(), nullable=False),
            pa.field("representative", pa.string(), nullable=False),
            pa.field("cosine", pa.float32(), nullable=False),
            pa.field("group_size", pa.int64(), nullable=False),
        ],
        metadata={METADATA_KEY: json.dumps(facts)},
    )
    ranks = np.empty(len(rows), np.int64)
    ranks[rows.dataset_rows] = np.arange(len(rows))
    kept, sizes, start = groups.kept, groups.sizes, 0
    try:
        with atomic_write(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as file:
            for table in dataset.tables(["id", value]):
                here = ranks[start : start + table.num_rows]
                chosen = rows.dataset_rows[groups.representatives[here]]
                columns = [
                    table["id"],
                    table[value],
                    pa.array(kept[here]),
                    rows.ids.take(pa.array(chosen)).cast(pa.string()),
                    pa.array(groups.cosines[here]),
                    pa.array(sizes[here]),
                ]
                file.write_table(pa.table(columns, schema=schema))
                start += table.num_rows
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error

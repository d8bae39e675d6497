"""Parquet files of a set size, sorted by id if that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipfleet.retrieval.export.rows import IdDigest, Rows

FILE_BYTES = 256 << 20

_ROW_GROUP_ROWS = 4096
_SCRATCH = "rows.arrow"  # beside the folder; it goes with the temporary folder


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetFolder:
    """Files with the dataset's columns: Zstandard, row groups of 4,096, statistics on the id.

    To sort, all rows are written to a scratch file without compression first, and picked from it;
    memory holds the ids.
    """

    sort_by_id: bool

    def write(self, path: Path, rows: Rows) -> None:
        path.mkdir()
        tables = rows.tables()
        if self.sort_by_id:
            tables = _sorted(tables, rows, path.parent / _SCRATCH)
        writer: pq.ParquetWriter | None = None
        number = 0
        for table in tables:
            if writer is None:
                writer = _writer(path / f"{number:05d}.parquet", rows.schema)
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
            if (path / f"{number:05d}.parquet").stat().st_size >= FILE_BYTES:
                writer.close()
                writer, number = None, number + 1
        if writer is None and number == 0:
            writer = _writer(path / "00000.parquet", rows.schema)
        if writer is not None:
            writer.close()

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        last = ""
        for file in sorted(path.iterdir()):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            if not parquet.schema_arrow.equals(rows.schema):
                raise ValueError(f"{file.name} has other columns")
            for group in range(parquet.num_row_groups):
                ids = parquet.read_row_group(group)["id"].to_pylist()
                if self.sort_by_id:
                    order = [id_.encode() for id_ in [last, *ids]]
                    if order != sorted(order):
                        raise ValueError(f"{file.name} is not sorted")
                    last = ids[-1]
                yield from ids


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
    )


def _sorted(tables: Iterator[pa.Table], rows: Rows, scratch: Path) -> Iterator[pa.Table]:
    """Yield all rows, sorted by the bytes of their ids."""
    ids = []
    with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        for table in tables:
            writer.write_table(table)
            ids.append(table["id"])
    with pa.memory_map(str(scratch)) as file:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        order = pc.array_sort_indices(pa.chunked_array(ids, pa.string()).combine_chunks())
        rows.written = IdDigest()
        for start in range(0, len(order), _ROW_GROUP_ROWS):
            wanted = order[start : start + _ROW_GROUP_ROWS].to_numpy().astype(np.int64)
            table = _picked(batches, wanted)
            rows.written.update(table["id"].to_pylist())
            yield table
    scratch.unlink()


def _picked(batches: Sequence[pa.RecordBatch], wanted: NDArray[np.int64]) -> pa.Table:
    """Return rows by their numbers in all batches. (`Table.take` would copy all batches first.)"""
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    by_batch = np.sort(wanted)
    edges = np.searchsorted(by_batch, starts)
    pieces = [
        batch.take(pa.array(by_batch[first:last] - start))
        for batch, start, first, last in zip(batches, starts, edges, edges[1:], strict=False)
        if first < last
    ]
    return pa.Table.from_batches(pieces).take(pa.array(np.argsort(np.argsort(wanted))))

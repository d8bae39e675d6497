"""Ways to damage the files of a dataset: bytes, rows, footers, JSON fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.errors import ClipfleetError
from clipfleet.storage.commit.commit import complete
from clipfleet.storage.format.dataset import Dataset

Change = Callable[[dict[str, list[Any]]], object]  # changes columns in place


def part(root: Path, name: str) -> Path:
    return root / "parts" / f"{name}.parquet"


def record(root: Path, name: str) -> Path:
    return root / "manifest" / f"{name}.json"


def errors(root: Path, name: str) -> Path:
    return root / "errors" / f"{name}.parquet"


def job(root: Path, number: int) -> Path:
    return root / "plan" / f"{number:05d}.json"


def plan(root: Path, number: int) -> Path:
    (path,) = (root / "plan").glob(f"{number:05d}-*.parquet")
    return path


def flip(path: Path, offset: int, mask: int = 0x80) -> None:
    """Flip bits of one byte; a negative offset counts from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def flip_page(path: Path, column: str, *, header: bool = False) -> None:
    """Flip a bit of a column's first page: in its values, or in the header before them."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(n) for n in range(group.num_columns)]
    (chunk,) = (c for c in chunks if c.path_in_schema.split(".")[0] == column)
    end = chunk.data_page_offset + chunk.total_compressed_size
    flip(path, chunk.data_page_offset + 3 if header else end - 6)


def flip_text(path: Path, text: bytes) -> None:
    """Flip a bit of a text that the file has as it is, the last time that it occurs."""
    flip(path, path.read_bytes().rindex(text), mask=0x01)


def rewrite(path: Path, change: Change, **footer: str) -> None:
    """Change columns of a Parquet file, and fields of its footer, with another tool's settings."""
    file = pq.ParquetFile(path)
    columns = file.read().to_pydict()
    change(columns)
    write(path, pa.table(columns, schema=file.schema_arrow.remove_metadata()), file, **footer)


def write(path: Path, table: pa.Table, file: pq.ParquetFile, **footer: str) -> None:
    """Write a table with the footer of a file, in row groups as that has them if that fits."""
    metadata = {k: v for k, v in (file.metadata.metadata or {}).items() if k != b"ARROW:schema"}
    metadata |= {f"clipfleet.{key}".encode(): value.encode() for key, value in footer.items()}
    groups = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer:
        start = 0
        for number, rows in enumerate(groups):
            length = None if number == len(groups) - 1 else rows
            writer.write_table(table.slice(start, length), row_group_size=max(1, len(table)))
            start += rows
        writer.add_key_value_metadata(metadata)


def replace_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace the table of a Parquet file by one with other columns."""
    file = pq.ParquetFile(path)
    write(path, change(file.read().replace_schema_metadata()), file)


def change_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None removes a field."""
    known = json.loads(path.read_text())
    known.update(fields)
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))


def footer_of(path: Path, key: str) -> Any:
    """Return a JSON field of a part's footer."""
    return json.loads(pq.ParquetFile(path).metadata.metadata[f"clipfleet.{key}".encode()])


def finish_anew(root: Path, name: str) -> None:
    """Delete a part's record, and have `resume` write it again from the part as it is now."""
    record(root, name).unlink(missing_ok=True)
    with suppress(ClipfleetError):
        complete(Dataset.open(str(root)), name)


def set_value(column: str, row: int, value: Any) -> Change:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] = value

    return change


def change_vector(row: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return a change of one vector; `change` gets and returns float16 (D,)."""

    def change_columns(columns: dict[str, list[Any]]) -> None:
        vector = np.array(columns["embedding"][row], np.float16)
        columns["embedding"][row] = list(change(vector).astype(np.float16))

    return change_columns


def swap(*names: str) -> Change:
    """Return a change that swaps the first two rows, in some columns or in all."""

    def change(columns: dict[str, list[Any]]) -> None:
        for name in names or tuple(columns):
            column = columns[name]
            column[0], column[1] = column[1], column[0]

    return change


def drop_row(columns: dict[str, list[Any]]) -> None:
    for column in columns.values():
        del column[0]


def double_row(columns: dict[str, list[Any]]) -> None:
    for column in columns.values():
        column.append(column[0])


def add_row(columns: dict[str, list[Any]]) -> None:
    double_row(columns)
    columns["id"][-1] = "new"

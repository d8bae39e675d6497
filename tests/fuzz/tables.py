"""Parquet files as sources: damaged ones, and whole ones of any columns, types and sizes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.architectures import Tower
from tests.fuzz.target import Make, Target

T = TypeVar("T")

# Values that no column of ids, paths or texts should have; a type is made to hold them.
_NAMES = (
    "id",
    "uri",
    "text",
    "path",
    "caption",
    "image",
    "image_id",
    "",
    "é",
    "a.b",
    "id",
    "error",
    "message",
    "attempt",
)
_PICTURES = [{"bytes": b"\xff\xd8", "path": None}, None, {"path": "a.jpg"}, {"bytes": b""}, {}]
_COLUMNS: tuple[tuple[pa.DataType, list[Any]], ...] = (
    (pa.string(), ["a", None, "", "x" * 5000, "/b.jpg"]),
    (pa.large_string(), ["a", "b", "a\0b", "../c", "file:///d"]),
    (pa.binary(), [b"\xff\xfe", b"a", None, b"", b"b"]),
    (pa.int64(), [1, 2**63 - 1, None, -1, 0]),
    (pa.uint64(), [1, 2**64 - 1, None, 5, 0]),
    (pa.float64(), [1.0, float("nan"), float("inf"), None, -0.0]),
    (pa.float16(), [1.0, None, None, None, None]),
    (pa.bool_(), [True, False, None, True, True]),
    (pa.null(), [None] * 5),
    (pa.timestamp("ns"), [2**62, 1, None, -(2**62), 0]),
    (pa.timestamp("s", tz="Nowhere/Here"), [2**40, 1, None, -(2**40), 0]),
    (pa.date64(), [0, 86_400_000 * 10**6, None, 0, 0]),
    (pa.duration("ns"), [2**62, 1, None, 3, 0]),
    (pa.decimal128(38, 10), [None, None, None, None, None]),
    (pa.list_(pa.string()), [["a"], None, [], ["b", None], ["c"]]),
    (pa.struct([("id", pa.string())]), [{"id": "a"}, None, {"id": None}, {"id": "b"}, None]),
    (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), _PICTURES),
    (pa.map_(pa.string(), pa.int8()), [[("a", 1)], None, [], [("b", 2)], []]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "b", "a", "c"]),
)


class Choices:
    """Choices that bytes make, one byte each; without bytes, always the first."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def number(self, below: int) -> int:
        return next(self._bytes, 0) % below

    def pick(self, values: Sequence[T]) -> T:
        return values[self.number(len(values))]


def table_bytes(data: bytes) -> bytes:
    """Return a Parquet file; the bytes choose its columns, types, sizes and damage."""
    choices = Choices(data)
    arrays, names = [], []
    for _ in range(choices.number(5)):
        type_, values = choices.pick(_COLUMNS)
        array = pa.array(values[: choices.number(len(values) + 1)] or values, type_)
        arrays.append(array.slice(0, 1 + choices.number(len(array))))
        names.append(choices.pick(_NAMES))
    rows = min(map(len, arrays), default=0)
    table = pa.table([array.slice(0, rows) for array in arrays], names=names)
    if choices.number(4) == 3:  # strings that are not UTF-8
        table = _not_utf8(table)
    file = io.BytesIO()
    pq.write_table(
        table, file, row_group_size=1 + choices.number(3), store_schema=choices.number(2) == 0
    )
    whole = bytearray(file.getvalue())
    for _ in range(choices.number(4)):  # mostly in the footer, which describes the rest
        at = len(whole) - 1 - choices.number(256) % len(whole)
        whole[at] = choices.number(256)
    return bytes(whole)


def _not_utf8(table: pa.Table) -> pa.Table:
    broken = pa.array([b"\xff"] * table.num_rows, pa.binary())
    as_text = pa.Array.from_buffers(pa.string(), len(broken), broken.buffers())
    columns = [as_text if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, names=table.column_names)


def table_target(kind: str, read: Callable[[Path, Tower], None]) -> Make:
    """Return a target of raw bytes (`parquet`), or of files that bytes describe (`tables`)."""

    def make(folder: Path) -> Target:
        path = folder / "source.parquet"

        def run(data: bytes) -> None:
            path.write_bytes(data if kind == "parquet" else table_bytes(data))
            read(path, "img")
            read(path, "txt")

        recipes = [
            bytes([n, *[n * 7 % 256, 5, 5, n % 9] * 4, n % 4, 1, n % 2, n % 3]) for n in range(20)
        ]
        seeds = recipes if kind == "tables" else [table_bytes(bytes([2, 0, 5, 5, 0, 0, 5, 5, 2]))]
        return Target(run=run, seeds=tuple(seeds))

    return make

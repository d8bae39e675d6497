"""Exports in text: a line a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipfleet.retrieval.export.rows import Rows, vectors_of

IDS_FILE = "ids.jsonl"  # a JSON string a line, in the order of the vectors beside it


class Lines:
    """A text file with a line a row; a format says what a line is."""

    def write(self, path: Path, rows: Rows) -> None:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            for table in rows.tables():
                vectors = vectors_of(table, rows.dim).tolist()
                items = table.select(rows.columns).to_pylist()
                for item, vector in zip(items, vectors, strict=True):
                    file.write(self.line(item, vector) + "\n")

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                id_, vector = self.parse(line.removesuffix("\n"))
                if len(vector) != rows.dim:
                    raise ValueError(f"line {number} has {len(vector)} numbers, not {rows.dim}")
                yield id_

    def line(self, item: dict[str, Any], vector: list[float]) -> str:
        """Return the line of an item, which has `Rows.columns`; it has no line break in it."""
        raise NotImplementedError

    def parse(self, line: str) -> tuple[str, list[float]]:
        """Return the id and the vector of a line.

        Raises:
            ValueError: It is not such a line.
        """
        raise NotImplementedError


def numbers(vector: list[float]) -> str:
    """Return a vector as a JSON list without blanks."""
    return json.dumps(vector, separators=(",", ":"))


def make_folder(folder: Path) -> None:
    """Make a folder with an empty file of ids."""
    folder.mkdir()
    (folder / IDS_FILE).touch()


def write_ids(folder: Path, table: pa.Table) -> None:
    """Append the ids of some rows to the file of ids of a folder."""
    with (folder / IDS_FILE).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(id_) + "\n" for id_ in table["id"].to_pylist())


def read_ids_file(folder: Path) -> Iterator[str]:
    """Yield the ids in the file of ids of a folder.

    Raises:
        ValueError: A line is no JSON.
    """
    with (folder / IDS_FILE).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)

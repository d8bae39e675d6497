"""The fvecs format of the TEXMEX corpora, which FAISS's tools read; and the ids beside it.

http://corpus-texmex.irisa.fr: for each vector its length as int32, then its numbers as float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipfleet.retrieval.export.lines import make_folder, read_ids_file, write_ids
from clipfleet.retrieval.export.rows import Rows, vectors_of

_FILE = "vectors.fvecs"
_NUMBER_BYTES = 4
_BLOCK_ROWS = 4096


class FvecsFolder:
    """vectors.fvecs with n vectors, and ids.jsonl."""

    def write(self, path: Path, rows: Rows) -> None:
        make_folder(path)
        with (path / _FILE).open("xb") as file:
            for table in rows.tables():
                block = np.empty((table.num_rows, 1 + rows.dim), "<f4")
                block[:, :1].view("<i4")[:] = rows.dim
                block[:, 1:] = vectors_of(table, rows.dim)
                file.write(block.data)
                write_ids(path, table)

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        width = 1 + rows.dim
        size = (path / _FILE).stat().st_size
        if size != rows.count * width * _NUMBER_BYTES:
            raise ValueError(f"{_FILE} has {size} bytes for {rows.count} vectors")
        with (path / _FILE).open("rb") as file:
            while data := file.read(_BLOCK_ROWS * width * _NUMBER_BYTES):
                if (np.frombuffer(data, "<i4").reshape(-1, width)[:, 0] != rows.dim).any():
                    raise ValueError(f"{_FILE} has a vector of another length than {rows.dim}")
        yield from read_ids_file(path)

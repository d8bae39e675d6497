"""NumPy's own file: a folder with `vectors.npy`, and the ids beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipfleet.retrieval.export.lines import make_folder, read_ids_file, write_ids
from clipfleet.retrieval.export.rows import Rows, vectors_of

_FILE = "vectors.npy"


class NumpyFolder:
    """vectors.npy (n, D), in the dataset's type, which `numpy.load` can map; and ids.jsonl."""

    def write(self, path: Path, rows: Rows) -> None:
        make_folder(path)
        header = {
            "descr": np.lib.format.dtype_to_descr(rows.dtype),
            "fortran_order": False,
            "shape": (rows.count, rows.dim),
        }
        with (path / _FILE).open("xb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for table in rows.tables():
                file.write(vectors_of(table, rows.dim).astype(rows.dtype).data)
                write_ids(path, table)

    def read_ids(self, path: Path, rows: Rows) -> Iterator[str]:
        vectors = np.load(path / _FILE, mmap_mode="r" if rows.count else None)
        if vectors.shape != (rows.count, rows.dim) or vectors.dtype != rows.dtype:
            raise ValueError(f"{_FILE} has shape {vectors.shape} and type {vectors.dtype}")
        yield from read_ids_file(path)

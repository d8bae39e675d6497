"""The rows of a dataset on their way into an export, which count themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.errors import DatasetError
from clipfleet.reader import Dataset
from clipfleet.storage.format.parquet import stored_vectors


class IdDigest:
    """The number of ids, and the SHA-256 of these ids in their order."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def update(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            data = id_.encode()
            self._digest.update(b"%d %s" % (len(data), data))
            self.count += 1

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class Rows:
    """The rows of a dataset; `count` is the number that its parts name.

    `columns` are those beside the vector: id, uri, width and height in pixels, or id and text.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.count = len(dataset)
        self.dim = dataset.dim
        self.dtype = dataset.dtype
        self.tower: Tower = dataset.model.tower
        self.columns = ["id", *(["uri", "width", "height"] if self.tower == "img" else ["text"])]
        vector = pa.list_(pa.from_numpy_dtype(dataset.dtype), dataset.dim)
        types = [
            pa.int32() if name in ("width", "height") else pa.string() for name in self.columns
        ]
        fields = zip([*self.columns, "embedding"], [*types, vector], strict=True)
        self.schema = pa.schema([pa.field(*field, nullable=False) for field in fields])
        self.written = IdDigest()

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows once, some thousands at a time.

        Raises:
            DatasetError: A part is damaged, or was moved away or replaced.
        """
        self.written = IdDigest()
        for table in self.dataset.tables(self.schema.names):
            self.written.update(table["id"].to_pylist())
            yield table


def vectors_of(table: pa.Table, dim: int) -> NDArray[np.float32]:
    """Return the vectors of some rows, float32 (n, dim)."""
    return stored_vectors(table, dim).astype(np.float32)


def check_proof(rows: Rows, found: IdDigest, out: object) -> None:
    """Refuse an export that does not have every row of the dataset, in order.

    Raises:
        DatasetError: The numbers or the ids differ.
    """
    numbers = (rows.count, rows.written.count, found.count)
    if len(set(numbers)) > 1 or rows.written.hexdigest() != found.hexdigest():
        raise DatasetError(
            f"the export to {out} is not whole: the dataset has {numbers[0]} vectors, {numbers[1]} "
            f"were written and {numbers[2]} read back, or their ids differ. Nothing is left at "
            f"{out}: run `clipfleet verify` on {rows.dataset.path}, and export again"
        )

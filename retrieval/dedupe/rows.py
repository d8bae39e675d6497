"""The rows of a dataset in the order in which they are considered, with their vectors on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, StorageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.dedupe.equal_vectors import digests_of, find_first_equal
from clipfleet.storage.format.parquet import stored_vectors

_SHOWN = 5  # doubled ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The n rows of a dataset; a row's rank is its place in the order of consideration.

    Larger pictures come first, of equal ones and of texts the lower id, by its UTF-8 bytes. So the
    order does not depend on the parts. `ids` are in the dataset's order. `dataset_rows` is int64
    (n,): the row of each rank in the dataset. `stored` is float16 (n, D), mapped from a file, in
    the dataset's order. `first_equal` is int64 (n,): the first rank with the same vector as each
    rank, to the bit.
    """

    ids: pa.LargeStringArray
    dataset_rows: NDArray[np.int64]
    stored: NDArray[np.float16]
    first_equal: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.dataset_rows)

    def vectors(self, ranks: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors (k, D) of these ranks in float32."""
        return self.stored[self.dataset_rows[ranks]].astype(np.float32)


@contextmanager
def open_rows(dataset: Dataset, folder: Path) -> Iterator[Rows]:
    """Copy the vectors into a file without a name in `folder`; it ends with the block.

    Raises:
        StorageError: The file does not fit on the disk.
        DatasetError: A part is damaged, or was moved away or replaced; or an id is there twice.
    """
    with ExitStack() as stack:
        try:
            rows = _read(dataset, stack.enter_context(tempfile.TemporaryFile(dir=folder)))
        except OSError as error:
            size_mb = len(dataset) * dataset.dim * 2 / 1e6
            raise StorageError(
                f"cannot copy {size_mb:,.0f} MB of vectors to {folder} ({error.strerror}): free "
                "some space there, or write the result to another disk"
            ) from error
        yield rows


def _read(dataset: Dataset, file: IO[bytes]) -> Rows:
    sizes = ["width", "height"] if dataset.model.tower == "img" else []
    ids: list[pa.Array] = []
    pixels, digests = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for table in dataset.tables(["id", *sizes, "embedding"]):
        ids += table["id"].chunks
        area = np.zeros(table.num_rows, np.int64)
        if sizes:
            width, height = (table[name].to_numpy().astype(np.int64) for name in sizes)
            area = width * height
        pixels.append(area)
        vectors = stored_vectors(table, dataset.dim).astype(np.float16, copy=False)
        digests.append(digests_of(vectors))
        file.write(vectors.data)
    file.flush()
    all_ids = pa.chunked_array(ids, pa.string()).cast(pa.large_string()).combine_chunks()
    _refuse_doubled(all_ids, dataset.path)
    areas = np.concatenate(pixels)
    shape = (len(areas), dataset.dim)
    stored = (
        np.memmap(file, np.float16, "r", shape=shape)
        if len(areas)  # an empty file cannot be mapped
        else np.empty(shape, np.float16)
    )
    order = _order(all_ids, areas)
    first_equal = find_first_equal(stored, order, np.concatenate(digests))
    return Rows(ids=all_ids, dataset_rows=order, stored=stored, first_equal=first_equal)


def _refuse_doubled(ids: pa.LargeStringArray, path: str) -> None:
    """Raise DatasetError if an id has two rows: one could be kept, and the other one dropped."""
    counts = ids.value_counts()
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        first = ", ".join(doubled[:_SHOWN].to_pylist())
        raise DatasetError(
            f"{len(doubled):,} ids are in {path} twice ({first}), so `kept` could be both: "
            f"`clipfleet verify {path}` tells why"
        )


def _order(ids: pa.LargeStringArray, areas: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of the dataset in the order of consideration."""
    table = pa.table({"area": areas, "id": ids})
    keys = [("area", "descending"), ("id", "ascending")]
    order: NDArray[np.int64] = pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)
    return order

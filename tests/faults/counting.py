"""What became of submitted ids, counted from the dataset's Parquet files with pyarrow alone.

Nothing of the product is used here: a fault in its own proof would hide what it loses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Rows of parts and of errors tables, and ids: `foreign` ones were submitted by nobody."""

    vectors: int
    errors: int
    lost: int
    doubled: int
    foreign: int


def count_ids(
    dataset: str, submitted: Collection[str], *, filesystem: FileSystem | None = None
) -> Counts:
    """Return what became of submitted ids in a dataset, whose path is the file system's."""
    fs = LocalFileSystem() if filesystem is None else filesystem
    vectors = Counter(_ids(fs, f"{dataset}/parts"))
    errors = Counter(_ids(fs, f"{dataset}/errors"))
    found = vectors + errors
    return Counts(
        vectors=vectors.total(),
        errors=errors.total(),
        lost=len(set(submitted) - found.keys()),
        doubled=sum(1 for times in found.values() if times > 1),
        foreign=len(found.keys() - set(submitted)),
    )


def _ids(fs: FileSystem, folder: str) -> Iterator[str]:
    for file in fs.get_file_info(FileSelector(folder, allow_not_found=True)):
        if file.is_file:
            yield from pq.read_table(file.path, columns=["id"], filesystem=fs)["id"].to_pylist()

"""A shard of an index as it is read: vectors and items, mapped into memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, UsageError
from clipfleet.retrieval.index.card import IndexCard, IndexShard
from clipfleet.retrieval.index.folder import ITEMS_NAME, VECTORS_NAME, shard_folder
from clipfleet.retrieval.index.shard_builder import read_shard_record


class StoredShard:
    """The rows of a shard: `vectors` float16 (n, D), and `items` with id and uri or text.

    Items are compared with their checksum when they are first read: a changed bit may make another
    id, and Arrow reads a changed offset or length from anywhere in memory.
    """

    def __init__(self, folder: Path, card: IndexCard, shard: IndexShard) -> None:
        """Use `open_shard`."""
        place = shard_folder(folder, shard.name)
        self._index = folder
        self._items_path = place / ITEMS_NAME
        self._items_sha256 = read_shard_record(folder, shard.name).items_sha256
        shape = (shard.rows, card.dim)
        size_bytes = (place / VECTORS_NAME).stat().st_size
        expected_bytes = shape[0] * shape[1] * np.dtype(np.float16).itemsize
        if size_bytes != expected_bytes:
            raise ValueError(f"vectors.f16 has {size_bytes} bytes, expected {expected_bytes}")
        self.vectors: NDArray[np.float16] = np.memmap(
            place / VECTORS_NAME, np.float16, "r", shape=shape
        )
        with pa.memory_map(str(self._items_path)) as file:
            self._items_file: pa.Buffer = file.read_buffer()

    @cached_property
    def items(self) -> pa.Table:
        """The items (n rows).

        Raises:
            DatasetError: They are not as they were written.
        """
        if hashlib.sha256(self._items_file).hexdigest() != self._items_sha256:
            raise DatasetError(
                f"{self._items_path} is not as it was written (SHA-256): `clipfleet verify "
                f"{self._index}` checks the other files; then build the index again, in another "
                "folder"
            )
        with pa.ipc.open_file(self._items_file) as reader:
            return reader.read_all()


def open_shard(folder: Path, card: IndexCard, shard: IndexShard) -> StoredShard:
    """Open a shard.

    Raises:
        DatasetError: A file is missing, cut off or damaged.
        UsageError: It may not be read.
    """
    place = shard_folder(folder, shard.name)
    try:
        return StoredShard(folder, card, shard)
    except PermissionError as error:
        raise UsageError(f"cannot read the files of {place}: {error.strerror}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            f"{place} is damaged ({type(error).__name__}: {error}): build the index again, in "
            "another folder"
        ) from error

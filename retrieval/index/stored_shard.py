"""A shard of an index as it is read: vectors and items, mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.errors import DatasetError, UsageError
from clipfleet.retrieval.index.card import IndexCard, IndexShard
from clipfleet.retrieval.index.folder import ITEMS_NAME, VECTORS_NAME, shard_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredShard:
    """The rows of a shard: `vectors` float16 (n, D), and `items` with id and uri or text."""

    vectors: NDArray[np.float16]
    items: pa.Table


def open_shard(folder: Path, card: IndexCard, shard: IndexShard) -> StoredShard:
    """Map the files of a shard.

    Raises:
        DatasetError: A file is missing, cut off or damaged.
        UsageError: It may not be read.
    """
    place, shape = shard_folder(folder, shard.name), (shard.rows, card.dim)
    expected_bytes = shape[0] * shape[1] * np.dtype(np.float16).itemsize
    try:
        size_bytes = (place / VECTORS_NAME).stat().st_size
        if size_bytes != expected_bytes:
            raise ValueError(f"vectors.f16 has {size_bytes} bytes, expected {expected_bytes}")
        vectors = np.memmap(place / VECTORS_NAME, np.float16, "r", shape=shape)
        with pa.memory_map(str(place / ITEMS_NAME)) as file, pa.ipc.open_file(file) as reader:
            items = reader.read_all()
        if items.num_rows != shard.rows:
            raise ValueError(f"items.arrow has {items.num_rows} rows, expected {shard.rows}")
    except PermissionError as error:
        raise UsageError(f"cannot read the files of {place}: {error.strerror}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            f"{place} is damaged ({type(error).__name__}: {error}): build the index again, in "
            "another folder"
        ) from error
    return StoredShard(vectors=vectors, items=items)

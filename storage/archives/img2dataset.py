"""The Parquet file that img2dataset writes beside each tar: what became of each of its rows.

Its columns: https://github.com/rom1504/img2dataset#output-format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.storage.stores.files import is_file, pyarrow_input

SUCCESS = "success"


@dataclass(kw_only=True, slots=True)
class Downloads:
    """The rows of a shard: captions by the keys of the pictures in its tar, None without one.

    `failed` has the numbers of the others, by status. Without captions, those of the tar count.
    """

    captions: dict[str, str | None] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    has_captions: bool = False


def read_downloads(tar: str) -> Downloads | None:
    """Return the rows of the Parquet file beside a tar; None if there is none of img2dataset.

    Raises:
        ValueError: The file cannot be read.
    """
    path = f"{tar.removesuffix('.tar')}.parquet"
    if not tar.endswith(".tar") or not is_file(path):
        return None
    try:
        with pq.ParquetFile(pyarrow_input(path)) as file:
            names = file.schema_arrow.names
            if not {"key", "status"} <= set(names):
                return None
            has_captions = "caption" in names
            table = file.read(["key", "status", *(["caption"] if has_captions else [])])
        return _downloads(table, has_captions=has_captions)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{os.path.basename(path)} beside it cannot be read: {error}; img2dataset may not have "
            "finished this shard: run it again, or restore the file"
        ) from error


def _downloads(table: pa.Table, *, has_captions: bool) -> Downloads:
    keys = table["key"].cast(pa.string()).to_pylist()
    captions = table["caption"].to_pylist() if has_captions else [None] * len(keys)
    found = Downloads(has_captions=has_captions)
    for key, status, caption in zip(keys, table["status"].to_pylist(), captions, strict=True):
        if status == SUCCESS:
            found.captions[key] = caption
        else:
            kind = str(status or "no status")
            found.failed[kind] = found.failed.get(kind, 0) + 1
    return found

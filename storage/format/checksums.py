"""Checksums: of a file's bytes, and of a part's payload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa


def file_sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def payload_sha256(tables: Iterable[pa.Table], metadata: Mapping[bytes, bytes]) -> str:
    """Return the SHA-256 of a part's payload: its rows, and the values of its footer.

    It does not depend on how the file stores the rows: in row groups, compressed, in pages. Each
    column has two digests, of its values and of the lengths of its strings; the result is the
    digest of these, in the columns' order, and of the metadata, in the order of the keys.

    `tables` have columns of strings, numbers, and fixed-size lists of numbers, without nulls.
    """
    columns: dict[str, _ColumnDigest] = {}
    for table in tables:
        if table.num_rows:
            for name in table.column_names:
                column = columns.setdefault(name, _ColumnDigest())
                for chunk in table[name].chunks:
                    column.update(chunk)
    whole = hashlib.sha256()
    for name, column in columns.items():
        whole.update(name.encode() + column.digest())
    for key, value in sorted(metadata.items()):
        whole.update(b"%d %s %d %s" % (len(key), key, len(value), value))
    return whole.hexdigest()


class _ColumnDigest:
    def __init__(self) -> None:
        self._values = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, chunk: pa.Array) -> None:
        if not len(chunk):
            return
        if pa.types.is_string(chunk.type):
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            self._lengths.update(np.diff(ends).data)
            if data is not None:  # not all strings are empty
                self._values.update(memoryview(data)[ends[0] : ends[-1]])
        else:
            flat = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
            self._values.update(np.ascontiguousarray(flat.to_numpy(zero_copy_only=False)).data)

    def digest(self) -> bytes:
        return self._values.digest() + self._lengths.digest()

"""Parquet files as sources."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.storage.sources.columns import show
from clipfleet.storage.sources.tables import TableSource
from clipfleet.storage.sources.text_files import check_regular

_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20  # of a column; pyarrow's defaults keep all that was read in memory
# pyarrow raises the last three for strings that are not UTF-8, and times that Python cannot hold.
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, ArithmeticError)
_STRING_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)


class ParquetSource(TableSource):
    """A Parquet file, or all of them in a folder and its subfolders, in order."""

    kind = "Parquet"

    def _located(self) -> Iterator[tuple[str, Item]]:
        for path in _parquet_files(self.path):
            yield from self._file(path)

    def _file(self, path: str) -> Iterator[tuple[str, Item]]:
        folder, row = os.path.dirname(path), 0
        check_regular(path)
        try:
            for ids, values in self._batches(path):
                for id_, value in zip(ids, values, strict=True):
                    row += 1
                    location = f"{path}, row {row}"
                    yield location, self.columns.item(id_, value, folder=folder, location=location)
        except _PARQUET_ERRORS as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from error

    def _batches(self, path: str) -> Iterator[tuple[list[object], list[object]]]:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            id_, value = self.columns.find(names, location=path)
            if names.count(id_) > 1 or names.count(value) > 1:
                raise SourceError(f"{path}: a column is named twice in {show(names)}")
            _check_type(path, value, file.schema_arrow.field(value).type)
            if file.metadata.num_rows == 0:  # older pyarrow cannot iterate over an empty file
                return
            for batch in file.iter_batches(_BATCH_ROWS, columns=sorted({id_, value})):
                yield _values(batch.column(id_)), _values(batch.column(value))


def _check_type(path: str, name: str, type_: pa.DataType) -> None:
    """Refuse a column of which no row can be a path or a text.

    Raises:
        SourceError: It is none of strings.
    """
    kind = type_.value_type if pa.types.is_dictionary(type_) else type_
    if not any(is_type(kind) for is_type in _STRING_TYPES):
        raise SourceError(f"{path}: column {name!r} holds {type_}, expected strings")


def _values(column: pa.Array) -> list[object]:
    """Return a column's values; binary ones as text, as programs write texts without their type.

    Of a fixed size, they are digests or the like, and become hexadecimal digits.
    """
    values: list[object] = column.to_pylist()
    if pa.types.is_fixed_size_binary(column.type):
        return [value.hex() if isinstance(value, bytes) else value for value in values]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [_text(value) if isinstance(value, bytes) else value for value in values]
    return values


def _text(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:  # the row's error shows the bytes
        return value


def _parquet_files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, subfolders, names in os.walk(path, onerror=_refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "_")))
        for name in sorted(names):
            if name.lower().endswith(".parquet") and not name.startswith((".", "_")):
                yield os.path.join(folder, name)


def _refuse(error: OSError) -> None:
    raise SourceError(f"cannot list the folder {error.filename}: {error.strerror}") from error

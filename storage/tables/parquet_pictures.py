"""Pictures in a column of a Parquet file: which column it is, and the uris of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.errors import SourceError
from clipfleet.storage.filesystem.members import ParquetPicture
from clipfleet.storage.filesystem.parquet_columns import (
    column_batches,
    column_chunk,
    footer_crc32,
)
from clipfleet.storage.stores.files import open_file
from clipfleet.storage.tables.columns import Columns

# Beside those of uris, names of columns of bytes that may be pictures.
PICTURE_COLUMNS = (
    *("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    *("bytes", "image_bytes", "img_bytes", "image_data", "content"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureColumn:
    """A column of bytes, `image` or `image.bytes`; `path` is used in rows without bytes."""

    bytes: str
    path: str | None = None


def picture_column(
    file: pq.ParquetFile, columns: Columns, *, location: str
) -> PictureColumn | None:
    """Return the column of pictures; None if the table has uris.

    It is a struct with the field `bytes`, as Hugging Face writes images, or a column of bytes with
    one of the usual names. If the user named a column, it is that one. A column of bytes whose
    first value is text holds no pictures.

    Raises:
        SourceError: There are several, and the user named none.
    """
    names = columns.values if columns.value_named else (*columns.values, *PICTURE_COLUMNS)
    found: dict[str, PictureColumn] = {}
    present = file.schema_arrow.names
    for field in file.schema_arrow:
        if present.count(field.name) > 1:  # refused if it is read
            continue
        is_asked = field.name in names
        if pa.types.is_struct(field.type):
            if (is_asked or not columns.value_named) and _has_bytes(field.type):
                has_path = field.type.get_field_index("path") >= 0
                path = f"{field.name}.path" if has_path else None
                found[field.name] = PictureColumn(bytes=f"{field.name}.bytes", path=path)
        elif is_asked and _is_binary(field.type) and not _holds_text(file, field.name):
            found[field.name] = PictureColumn(bytes=field.name)
    if len(found) > 1:
        raise SourceError(
            f"{location}: the columns {', '.join(map(repr, found))} hold pictures: name one with "
            "--uri-column"
        )
    return next(iter(found.values()), None)


def picture_uris(file: pq.ParquetFile, path: str, column: PictureColumn) -> Iterator[str | None]:
    """Yield the uri of each row: a member's URL, the path of a row without bytes, or None.

    Bytes are read only in row groups in which some are null.
    """
    with open_file(path) as opened:
        footer = footer_crc32(opened)
    row = 0
    for group in range(file.metadata.num_row_groups):
        for other in _others(file, group, column):
            row += 1
            if other is _HAS_BYTES:
                picture = ParquetPicture(path=path, column=column.bytes, row=row, footer=footer)
                yield picture.uri
            else:
                yield other


_HAS_BYTES = ""  # no path is empty


def _others(file: pq.ParquetFile, group: int, column: PictureColumn) -> Iterator[str | None]:
    """Yield for each row of a group what it has in place of bytes, `_HAS_BYTES` if it has them."""
    statistics = column_chunk(file, group, column.bytes).statistics
    if statistics is not None and statistics.has_null_count and not statistics.null_count:
        for _ in range(file.metadata.row_group(group).num_rows):
            yield _HAS_BYTES
        return
    names = [column.bytes] if column.path is None else [column.bytes, column.path]
    for batch in column_batches(file, names, [group]):
        found = batch.column(0)
        if pa.types.is_struct(found.type):
            fields = dict(zip((field.name for field in found.type), found.flatten(), strict=True))
            paths = fields["path"].to_pylist() if column.path else [None] * len(batch)
            found = fields["bytes"]
        else:
            paths = [None] * len(batch)
        for is_there, path in zip(found.is_valid().to_pylist(), paths, strict=True):
            yield _HAS_BYTES if is_there else path or None


def _has_bytes(type_: pa.StructType) -> bool:
    index = type_.get_field_index("bytes")
    if index < 0:
        return False
    kind = type_.field(index).type  # null, if no row has bytes
    return _is_binary(kind) or bool(pa.types.is_null(kind))


def _is_binary(type_: pa.DataType) -> bool:
    kind = type_.value_type if pa.types.is_dictionary(type_) else type_
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _holds_text(file: pq.ParquetFile, name: str) -> bool:
    """Return whether the first value is text, or there is none."""
    for batch in column_batches(file, [name], range(file.metadata.num_row_groups)):
        value = next((one for one in batch.column(0).to_pylist() if one), None)
        if value is not None:
            return b"\0" not in value and _is_text(value)
    return True


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True

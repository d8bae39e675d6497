"""Parquet files as sources."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from clipfleet.architectures import Tower
from clipfleet.errors import SourceError
from clipfleet.images import IMAGE_EXTENSIONS
from clipfleet.items import Item
from clipfleet.storage.filesystem.locations import readable
from clipfleet.storage.filesystem.parquet_columns import PARQUET_ERRORS, open_columns
from clipfleet.storage.filesystem.remote import is_remote, parent
from clipfleet.storage.skipped import JUNK, NO_RULES, FileFilter, extension_of
from clipfleet.storage.stores.files import below, is_folder, names_in, pyarrow_input
from clipfleet.storage.tables.columns import show
from clipfleet.storage.tables.parquet_pictures import PictureColumn, picture_column, picture_uris
from clipfleet.storage.tables.text_files import check_regular
from clipfleet.storage.tables.text_tables import TableSource
from clipfleet.storage.walk import FileWalk

_BATCH_ROWS = 4096
_EXTENSION = ".parquet"
# Beside files of Parquet, programs write `_SUCCESS`, `_metadata`, `_temporary/` and `.….crc`.
_FILTER = FileFilter(NO_RULES, extensions=frozenset({_EXTENSION}), junk=(*JUNK, "_*"))
_EITHER = FileFilter(
    NO_RULES, extensions=frozenset({_EXTENSION, *IMAGE_EXTENSIONS}), junk=(*JUNK, "_*")
)
_STRING_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)


class ParquetSource(TableSource):
    """A Parquet file, or all of them in a folder and its subfolders, in order.

    The names of subfolders, such as `dt=2024-01-01`, are no columns. A column may hold pictures:
    then the uri of an item is that of a member, and its id without a column of ids is
    `file.parquet:7`, with the number of the row from 1.

    After an iteration over a folder, `skipped` counts its other files.
    """

    kind = "Parquet"

    def __iter__(self) -> Iterator[Item]:
        self.skipped.clear()
        yield from super().__iter__()

    def _located(self) -> Iterator[tuple[str, Item]]:
        if not is_folder(self.path):
            yield from self._file(self.path)
            return
        for path in FileWalk(self.path, _FILTER).paths(self.skipped):
            if is_remote(path) or not os.path.isdir(path):  # Spark writes folders named so
                yield from self._file(path)

    def _file(self, path: str) -> Iterator[tuple[str, Item]]:
        folder = parent(path)
        check_regular(path)
        try:
            with open_columns(pyarrow_input(path)) as file:
                for row, (id_, value) in enumerate(self._rows(file, path), 1):
                    location = f"{path}, row {row}"
                    yield location, self.columns.item(id_, value, folder=folder, location=location)
        except PARQUET_ERRORS as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from error

    def _rows(self, file: pq.ParquetFile, path: str) -> Iterator[tuple[object, object]]:
        """Yield the id and the value of each row."""
        names = file.schema_arrow.names
        pictures = self._pictures(file, path)
        if pictures is None:
            id_, value = self.columns.find(names, location=path)
            _check_once(path, names, id_, value)
            _check_type(path, value, file.schema_arrow.field(value).type)
            for batch in _batches(file, sorted({id_, value})):
                yield from zip(
                    _values(batch.column(id_)), _values(batch.column(value)), strict=True
                )
            return
        uris = picture_uris(file, path, pictures)
        ids = self.columns.find_ids(names, location=path)
        if ids is None:
            name = readable(below(path, self.folder))
            yield from ((f"{name}:{row}", uri) for row, uri in enumerate(uris, 1))
            return
        _check_once(path, names, ids)
        for batch in _batches(file, [ids]):
            yield from zip(_values(batch.column(ids)), uris, strict=False)

    def _pictures(self, file: pq.ParquetFile, path: str) -> PictureColumn | None:
        if self.columns.tower == "txt":
            return None
        return picture_column(file, self.columns, location=path)


def _batches(file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    if file.metadata.num_rows:  # older pyarrow cannot iterate over an empty file
        yield from file.iter_batches(_BATCH_ROWS, columns=names)


def _check_once(path: str, names: list[str], *used: str) -> None:
    if any(names.count(name) > 1 for name in used):
        raise SourceError(f"{path}: a column is named twice in {show(names)}")


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


def holds_parquet(folder: str, tower: Tower, *, named: bool) -> bool:
    """Return whether a folder is a table of Parquet files for a tower.

    For images it is one if it has Parquet files and no image. For texts, or if columns are named,
    it is one if a Parquet file lies in the folder itself, or below it before the first image in
    the order of paths: a search of millions of images would take minutes.

    Raises:
        SourceError: A folder cannot be listed.
    """
    try:
        at_top = any(extension_of(name) == _EXTENSION for name in names_in(folder))
    except OSError as error:
        raise SourceError(f"cannot list the folder {error.filename}: {error.strerror}") from error
    is_asked = named or tower == "txt"
    found = at_top and is_asked
    files = () if found else FileWalk(folder, _EITHER).paths({})
    for path in files:
        if extension_of(path) != _EXTENSION:
            return found and is_asked
        found = True
    return found

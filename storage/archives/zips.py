"""Zip archives of pictures, each read like a folder."""

from __future__ import annotations

import posixpath
import zipfile
from typing import BinaryIO

from clipfleet.storage.archives.files import ZIP_ENDINGS, Archive
from clipfleet.storage.archives.source import (
    ArchiveSource,
    Located,
    faulty,
    inner_path,
    item_of,
)
from clipfleet.storage.filesystem.members import ZipMember
from clipfleet.storage.skipped import FolderRules, count_skipped
from clipfleet.storage.stores.files import open_file

_HEADER_BYTES = 30  # of a file's own header, without the name and the extra field
_HEADER_MAGIC = b"PK\x03\x04"
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate"}
_IS_ENCRYPTED, _IS_UTF_8 = 0x1, 0x800  # flags of a file
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError)


class ZipSource(ArchiveSource):
    """The pictures of zip archives, in the order of each archive's table of contents.

    The id is the path in the archive, after the archive's name. `encoding` is that of names which
    the archive does not call UTF-8, by default that of the format, code page 437.
    """

    kind = "zip archives"
    endings = ZIP_ENDINGS

    def __init__(self, path: str, rules: FolderRules, *, encoding: str | None) -> None:
        super().__init__(path, "img", rules)
        self._encoding = encoding

    def _read(self, archive: Archive, skipped: dict[str, int]) -> Located:
        with open_file(archive.path) as file:
            try:
                listed = zipfile.ZipFile(file).infolist()
            except _ZIP_ERRORS as error:
                name = archive.file_name
                reason = f"its table of contents, at its end, cannot be read: {error}"
                yield name, faulty(name, f"{name}: {reason}", "img")
                return
            for found in listed:
                inner = inner_path(self._name(found))
                if found.filename.endswith("/") or self.is_left_out(archive, inner, skipped):
                    continue
                if not self.is_picture(archive, inner):
                    count_skipped(skipped, self.filter.kind(posixpath.basename(inner)))
                    continue
                place, id_ = f"{archive.file_name}, {inner}", f"{archive.name}/{inner}"
                try:
                    member = _member(file, archive, found)
                except ValueError as error:
                    yield place, faulty(id_, f"{place}: {error}", "img")
                else:
                    yield place, item_of(id_, member.uri, "img", place)

    def _name(self, found: zipfile.ZipInfo) -> str:
        name = found.filename
        if self._encoding is None or found.flag_bits & _IS_UTF_8:
            return name
        return name.encode("cp437").decode(self._encoding, "backslashreplace")


def _member(file: BinaryIO, archive: Archive, found: zipfile.ZipInfo) -> ZipMember:
    """Return the member of a file in an archive.

    Raises:
        ValueError: It is encrypted, compressed by another method, or not where it should be.
    """
    if found.flag_bits & _IS_ENCRYPTED:
        raise ValueError("it is encrypted: unpack the archive with its password")
    method = _METHODS.get(found.compress_type)
    if method is None:
        raise ValueError(
            f"it is compressed by method {found.compress_type}: only 0 and 8, stored and deflate, "
            "are read"
        )
    file.seek(found.header_offset)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_HEADER_MAGIC):
        raise ValueError(f"its header is not at byte {found.header_offset}: the archive is damaged")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return ZipMember(
        path=archive.path,
        offset=found.header_offset + _HEADER_BYTES + lengths,
        size=found.compress_size,
        method=method,
        crc32=found.CRC,
    )

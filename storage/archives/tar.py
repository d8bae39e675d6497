"""The headers of a tar: the names and ranges of its files, without their data.

Python's `tarfile` is several times slower, keeps all headers, and ends at a damaged one. This reads
what tars of today hold: ustar headers, pax records, and the long names of GNU
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, "ustar Interchange Format").
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from clipfleet.storage.filesystem.members import TAR_BLOCK_BYTES

_ZEROS = bytes(TAR_BLOCK_BYTES)
_MAGIC, _MAGIC_START = b"ustar", 257
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_FOLDER = b"5"
_LONG_NAME, _PAX = b"L", b"x"
_RECORDS = (_LONG_NAME, b"K", _PAX, b"g")  # of long links, and for all files, too
_MAX_RECORD_BYTES = 1 << 20
_SEARCHED_BYTES = 1 << 20  # at once
_ADLER_BASE = 65_521


class TarFile(NamedTuple):
    """A file in a tar: `size` bytes at `offset`, after a header with the CRC-32 `header`."""

    path: str
    offset: int
    size: int
    header: int
    is_regular: bool  # or a link or the like, without data of its own


class TarDamage(NamedTuple):
    """A place of a tar that cannot be read, and why; `position` is in bytes."""

    position: int
    reason: str


class _Header(NamedTuple):
    path: bytes
    size: int
    type: bytes


class _Said(NamedTuple):
    """What records say about the next file: its path, and its size; b"" and -1 for nothing."""

    path: bytes
    size: int


_NOTHING_SAID = _Said(b"", -1)


class TarReader:
    """Reads the headers of an open tar in order; folders are left out.

    Raises:
        OSError: The disk did not answer.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._next = _NOTHING_SAID

    def __iter__(self) -> Iterator[TarFile | TarDamage]:
        try:
            yield from self._files()
        except EOFError:
            yield TarDamage(self._position, "its compressed data was cut off")
        except (gzip.BadGzipFile, zlib.error) as error:
            yield TarDamage(self._position, f"its compressed data is damaged: {error}")

    def data(self, found: TarFile) -> bytes:
        """Return the bytes of the file that was found last; fewer if they are damaged."""
        try:
            return self._read(found.offset, found.size)
        except (
            gzip.BadGzipFile,
            EOFError,
            zlib.error,
        ):  # the next header meets it again, and says so
            return b""

    def _files(self) -> Iterator[TarFile | TarDamage]:
        has_end = False
        while len(block := self._read(self._position, TAR_BLOCK_BYTES)) == TAR_BLOCK_BYTES:
            start = self._position + TAR_BLOCK_BYTES
            if block == _ZEROS:
                has_end, self._position = True, start
                continue
            has_end = False
            header = _header(block)
            if header is None:
                end = self._next_header(start)
                yield TarDamage(self._position, _no_header(self._position, end))
                if end is None:
                    return
                self._position, self._next = end, _NOTHING_SAID
            elif header.type in _RECORDS:
                self._read_record(header, start)
                self._position = _padded(start + header.size)
            else:
                found = self._file_of(header, block, start)
                if header.type != _FOLDER:
                    yield found
                if found.size and not self._read(start + found.size - 1, 1):
                    yield TarDamage(start, "it ends inside this file: it was cut off")
                    return
                self._position, self._next = _padded(start + found.size), _NOTHING_SAID
        if block or not has_end:
            yield TarDamage(self._position, "it ends without an end mark: it was cut off")

    def _read_record(self, header: _Header, start: int) -> None:
        """Read what a record says about the next file: its path or size."""
        data = self._read(start, min(header.size, _MAX_RECORD_BYTES))
        if header.type == _LONG_NAME:
            self._next = self._next._replace(path=data.rstrip(b"\0"))
        elif header.type == _PAX:
            self._next = _pax(data, self._next)

    def _file_of(self, header: _Header, block: bytes, start: int) -> TarFile:
        path = os.fsdecode(self._next.path or header.path)
        size = header.size if self._next.size < 0 else self._next.size
        if header.type in _WITHOUT_DATA:
            size = 0
        return TarFile(path, start, size, zlib.crc32(block), header.type in _REGULAR)

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        return self._file.read(size)

    def _next_header(self, position: int) -> int | None:
        """Return the position of the next sound header, at `position` or later."""
        while chunk := self._read(position, _SEARCHED_BYTES):
            found = chunk.find(_MAGIC)
            while found >= 0:
                start = found - _MAGIC_START
                block = chunk[start : start + TAR_BLOCK_BYTES] if start >= 0 else b""
                if (
                    start % TAR_BLOCK_BYTES == 0
                    and len(block) == TAR_BLOCK_BYTES
                    and _header(block)
                ):
                    return position + start
                found = chunk.find(_MAGIC, found + 1)
            position += len(chunk)
        return None


def _no_header(position: int, end: int | None) -> str:
    if end is not None:
        return f"no header can be read up to byte {end}"
    return "no header can be read behind it" if position else "it is no tar"


def _header(block: bytes) -> _Header | None:
    """Return what a header says; None if its checksum is wrong, the sum of its bytes."""
    try:
        checksum = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        return None
    # The low half of Adler-32 is 1 and the sum of the bytes, modulo its base.
    total = zlib.adler32(block[:148] + b"        " + block[156:]) & 0xFFFF
    if total != (1 + checksum) % _ADLER_BASE:
        return None
    path = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        path = block[345:500].partition(b"\0")[0] + b"/" + path
    return _Header(path, size, block[156:157])


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's form of large numbers
        return int.from_bytes(field[1:], "big")
    number = int(field.strip(b" \0") or b"0", 8)
    if number < 0:
        raise ValueError("a negative number")
    return number


def _pax(data: bytes, said: _Said) -> _Said:
    """Return what the records `length key=value\n` of a pax header say, beside what is `said`."""
    start = 0
    while start < len(data):
        digits = data[start : start + 20].partition(b" ")[0]
        length = _decimal(digits)
        if length <= len(digits) + 1:  # it is damaged
            break
        key, _, value = data[start + len(digits) + 1 : start + length - 1].partition(b"=")
        if key == b"path":
            said = said._replace(path=value)
        elif key == b"size":
            said = said._replace(size=_decimal(value))
        start += length
    return said


def _decimal(digits: bytes) -> int:
    return int(digits) if digits.isdigit() and len(digits) < 20 else -1


def _padded(position: int) -> int:
    return -(-position // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES

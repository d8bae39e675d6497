"""The bytes of a member: a picture inside a file, of which only this picture is read."""

from __future__ import annotations

import base64
import binascii
import errno
import gzip
import os
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from clipfleet.error_codes import DECODE_FAILED, READ_FAILED
from clipfleet.errors import ItemError
from clipfleet.storage.filesystem.members import (
    TAR_BLOCK_BYTES,
    Base64Text,
    Member,
    ParquetPicture,
    TarMember,
    TgzMember,
    ZipMember,
)
from clipfleet.workers.item_errors import item_error, shown

_RAW_DEFLATE = -zlib.MAX_WBITS


ReadRange = Callable[[int, int], bytes]  # (offset, size) -> fewer bytes only at the file's end
Opened = Callable[[], BinaryIO]


def read_member(file: int, member: Member, max_bytes: int) -> bytes:
    """Return the bytes of a member of the open file `file`.

    Raises:
        OSError: EFBIG, it has more than `max_bytes`; or the disk's own error.
        ItemError: The file ends before it, is damaged, or was written anew after it was planned.
    """
    if isinstance(member, TgzMember):
        status = os.fstat(file)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return _read_tgz(member, max_bytes, identity, lambda: _reopened(file))
    if isinstance(member, ParquetPicture):
        from clipfleet.workers.images.parquet_rows import read_row  # pyarrow, for these only

        return _read_parquet(partial(read_row, file), member, max_bytes)
    return read_range(partial(_pread, file), member, max_bytes)


def read_in_order(opened: Opened, member: Member, max_bytes: int) -> bytes:
    """Return the bytes of a remote member that is no range of its file; `opened` opens its file.

    Each thread keeps the file that it read last, with its place in it.

    Raises:
        OSError, ItemError: As for `read_member`; or the errors of the file.
    """
    if isinstance(member, TgzMember):
        return _read_tgz(member, max_bytes, (member.path,), opened)
    from clipfleet.workers.images.parquet_rows import read_remote_row

    return _read_parquet(partial(read_remote_row, opened), member, max_bytes)


def read_range(read: ReadRange, member: Member, max_bytes: int) -> bytes:
    """Return the bytes of a member that is one range of its file.

    Raises:
        OSError, ItemError: As for `read_member`; or the errors of `read`.
    """
    reader = _RANGE_READERS.get(type(member))
    if reader is None:
        raise damaged(member, f"a {member.scheme} member is not read from there")
    return reader(read, member, max_bytes)


def _read_tar(read: ReadRange, member: TarMember, max_bytes: int) -> bytes:
    check_size(member.size, max_bytes, member)
    start = member.offset - TAR_BLOCK_BYTES
    return _without_header(read(start, TAR_BLOCK_BYTES + member.size), member)


def _read_tgz(
    member: TgzMember, max_bytes: int, identity: tuple[object, ...], opened: Opened
) -> bytes:
    check_size(member.size, max_bytes, member)
    start = member.offset - TAR_BLOCK_BYTES
    try:
        data = _unpacked.read(identity, opened, start, TAR_BLOCK_BYTES + member.size)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(member, f"its file is damaged: {error}") from error
    return _without_header(data, member)


def _without_header(data: bytes, member: TarMember) -> bytes:
    if len(data) != TAR_BLOCK_BYTES + member.size:
        raise damaged(member, "its file ends before its end")
    if zlib.crc32(data[:TAR_BLOCK_BYTES]) != member.header:
        raise damaged(member, "its file has something else there")
    return data[TAR_BLOCK_BYTES:]


def _read_zip(read: ReadRange, member: ZipMember, max_bytes: int) -> bytes:
    check_size(member.size, max_bytes, member)
    data = read(member.offset, member.size)
    if len(data) != member.size:
        raise damaged(member, "its file ends before its end")
    if member.method == "deflate":
        try:
            data = zlib.decompressobj(_RAW_DEFLATE).decompress(data, max_bytes + 1)
        except zlib.error as error:
            raise damaged(member, f"it cannot be unpacked: {error}") from error
        check_size(len(data), max_bytes, member)
    if zlib.crc32(data) != member.crc32:
        raise damaged(member, "its checksum is another one")
    return data


def _read_base64(read: ReadRange, member: Base64Text, max_bytes: int) -> bytes:
    check_size(member.size // 4 * 3, max_bytes, member)
    text = read(member.offset, member.size)
    if len(text) != member.size or zlib.crc32(text) != member.crc32:
        raise damaged(member, "its file has something else there")
    try:
        return base64.urlsafe_b64decode(text)
    except binascii.Error as error:
        raise item_error(DECODE_FAILED, f"{shown(member.uri)} is no base64: {error}") from error


def _read_parquet(read_row: Callable[[Any], bytes], member: Member, max_bytes: int) -> bytes:
    try:
        picture = read_row(member)
    except ValueError as error:
        raise damaged(member, str(error)) from error
    check_size(len(picture), max_bytes, member)
    return picture


_RANGE_READERS: dict[type[Member], Callable[[ReadRange, Any, int], bytes]] = {
    TarMember: _read_tar,
    ZipMember: _read_zip,
    Base64Text: _read_base64,
}


class _Unpacked(threading.local):
    """The gzip file that a thread read last, still open: the next member is often just behind.

    A read before the last one begins at the start of the file again.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._unpacked: gzip.GzipFile | None = None
        self._identity: tuple[object, ...] = ()

    def read(self, identity: tuple[object, ...], opened: Opened, offset: int, size: int) -> bytes:
        if self._unpacked is None or identity != self._identity:
            self._close()
            self._file = opened()
            self._unpacked = gzip.GzipFile(fileobj=self._file, mode="rb")
            self._identity = identity
        try:
            self._unpacked.seek(offset)
            return self._unpacked.read(size)
        except (OSError, EOFError, zlib.error, ItemError):
            self._close()
            raise

    def _close(self) -> None:
        if self._unpacked is not None:
            self._unpacked.close()
            self._unpacked = None
        if self._file is not None:
            self._file.close()
            self._file = None


_unpacked = _Unpacked()


def _reopened(file: int) -> BinaryIO:
    return open(f"/proc/self/fd/{file}", "rb")


def _pread(file: int, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset`, fewer only at the end of the file."""
    data = os.pread(file, size, offset)
    while len(data) < size:  # Linux reads at most 2 GiB at once, a network disk sometimes less
        more = os.pread(file, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def check_size(size: int, max_bytes: int, member: Member) -> None:
    """Refuse a member that is too large.

    Raises:
        OSError: EFBIG, it has more than `max_bytes`.
    """
    if size > max_bytes:
        reason = f"more than the {max_bytes} bytes allowed"
        raise OSError(errno.EFBIG, reason, member.path)


def damaged(member: Member, reason: str) -> ItemError:
    """Return the error of a member that is not what was planned."""
    return item_error(
        READ_FAILED,
        f"{shown(member.uri)} cannot be read: {reason}; if the file was replaced, embed its "
        "source again with --refresh",
    )

"""A pack: the files of many parts, one after the other, and a footer over the rows of all.

A pack is a Parquet file: its footer names the columns of all parts where they are in the pack. It
also names the parts, so each part's file can be read from the pack, byte for byte. The bytes of a
pack follow from its parts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from clipfleet.storage.packs.thrift import BINARY, I64, LIST, STRUCT, Struct, read_struct
from clipfleet.storage.packs.thrift import struct_bytes as bytes_of

SUFFIX = "_packed.parquet"  # no part's name: numbers end those

_NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a part
_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the length of the footer in 4 bytes, and the magic
_PARTS_KEY = b"clipfleet.parts"
# Of the first part. All parts of a dataset are of one model.
_KEPT_KEYS = (b"ARROW:schema", b"clipfleet.model", b"clipfleet.model_card")

# The numbers of the fields in https://github.com/apache/parquet-format, parquet.thrift.
_SCHEMA, _ROWS, _GROUPS, _KEY_VALUES = 2, 3, 4, 5  # of FileMetaData
_KEY, _VALUE = 1, 2  # of KeyValue
_COLUMNS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7  # of RowGroup
_CHUNK_OFFSETS = (2, 4, 6)  # of ColumnChunk: of the chunk, of its offset index and column index
_CHUNK_METADATA = 3
_PAGE_OFFSETS = (9, 10, 11, 14)  # of ColumnMetaData: data, index, dictionary, bloom filter


@dataclass(frozen=True, slots=True)
class Member:
    """A part in a pack: its file is the `size` bytes at `offset`."""

    name: str
    offset: int
    size: int


class PackBuilder:
    """Puts parts into a pack in memory."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._footer = _PackFooter()

    def add(self, name: str, part: bytes | memoryview) -> None:
        """Add a part's file.

        Raises:
            ValueError: It is no Parquet file, or has other columns than the parts before.
        """
        member = Member(name, len(self._data), len(part))
        try:
            self._footer.add(member, _footer_in(part))
        except (LookupError, TypeError) as error:
            raise ValueError(f"its footer lacks what Parquet needs ({error})") from error
        self._data += memoryview(part).cast("B")

    def finish(self) -> bytearray:
        """Return the pack's bytes."""
        self._data += self._footer.to_bytes()
        return self._data


def is_pack_name(name: str) -> bool:
    """Return whether a file has the name of a pack."""
    return name.endswith(SUFFIX)


def pack_name(first: str) -> str:
    """Return the file name of the pack whose first part is `first`; it sorts like that part's."""
    return f"{first}{SUFFIX}"


def read_members(file: BinaryIO) -> tuple[Member, ...]:
    """Return the parts in a pack, in their order.

    Raises:
        ValueError: The pack's footer is damaged.
    """
    members, footer_offset = _members_of(_footer_of(file))
    if footer_offset != file.seek(0, os.SEEK_END) - _footer_bytes(file):
        raise ValueError("its parts do not fill it")
    return members


def has_own_footer(file: BinaryIO, members: Iterable[Member]) -> bool:
    """Return whether a pack's footer is the one that follows from the footers of its parts."""
    expected = _PackFooter()
    end = 0
    try:
        for member in members:
            end = member.offset + member.size
            expected.add(member, read_struct(_tail(file, member.offset, member.size)))
    except (LookupError, TypeError, ValueError):  # a part's footer is damaged
        return False
    file.seek(end)
    return file.read() == expected.to_bytes()


class _PackFooter:
    def __init__(self) -> None:
        self._members: list[Member] = []
        self._whole: Struct = {}
        self._groups: list[Struct] = []
        self._rows = 0

    def add(self, member: Member, footer: Struct) -> None:
        rows, groups = footer[_ROWS][1], footer[_GROUPS][1][1]
        if footer[_SCHEMA] != self._whole.get(_SCHEMA, footer[_SCHEMA]):
            raise ValueError(f"part {member.name} has other columns than {self._members[0].name}")
        for group in groups:
            _shift(group, member.offset)
        self._whole = self._whole or {**footer, _KEY_VALUES: footer[_KEY_VALUES]}
        self._members.append(member)
        self._groups += groups
        self._rows += rows

    def to_bytes(self) -> bytes:
        rows = [[member.name, member.offset, member.size] for member in self._members]
        names = json.dumps(rows, separators=(",", ":")).encode()
        _, (_, key_values) = self._whole[_KEY_VALUES]
        kept = [entry for entry in key_values if entry[_KEY][1] in _KEPT_KEYS]
        kept.append({_KEY: (BINARY, _PARTS_KEY), _VALUE: (BINARY, names)})
        footer = dict(self._whole)
        footer[_ROWS] = (I64, self._rows)
        footer[_GROUPS] = (LIST, (STRUCT, self._groups))
        footer[_KEY_VALUES] = (LIST, (STRUCT, kept))
        data = bytes_of(footer)
        return data + len(data).to_bytes(4, "little") + _MAGIC


def _shift(group: Struct, offset: int) -> None:
    """Move a row group's offsets by the offset of its part."""
    group.pop(_ORDINAL, None)  # optional, and of 16 bits
    _shift_fields(group, (_GROUP_OFFSET,), offset)
    for chunk in group[_COLUMNS][1][1]:
        _shift_fields(chunk, _CHUNK_OFFSETS, offset)
        _shift_fields(chunk[_CHUNK_METADATA][1], _PAGE_OFFSETS, offset)


def _shift_fields(struct: Struct, fields: tuple[int, ...], offset: int) -> None:
    for field in fields:
        if struct.get(field, (I64, 0))[1]:  # 0: written as "none"
            kind, value = struct[field]
            struct[field] = (kind, value + offset)


def _members_of(footer: Struct) -> tuple[tuple[Member, ...], int]:
    """Return the parts that a footer names, and where the last of them ends."""
    try:
        entries = {entry[_KEY][1]: entry[_VALUE][1] for entry in footer[_KEY_VALUES][1][1]}
        rows: Any = json.loads(entries[_PARTS_KEY])
        members = tuple(Member(name, int(offset), int(size)) for name, offset, size in rows)
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"its footer names no parts ({type(error).__name__})") from error
    end = 0
    for member in members:
        if not _NAME.fullmatch(member.name) or member.offset != end or member.size <= 0:
            raise ValueError(f"part {member.name!s:.100} is not where the one before ends")
        end += member.size
    return members, end


def _footer_in(part: bytes | memoryview) -> Struct:
    view = memoryview(part).cast("B")
    length = _length(bytes(view[-_TAIL_BYTES:]), len(view))
    return read_struct(view[len(view) - _TAIL_BYTES - length :])


def _footer_of(file: BinaryIO) -> Struct:
    return read_struct(_tail(file, 0, file.seek(0, os.SEEK_END)))


def _footer_bytes(file: BinaryIO) -> int:
    """Return the size of a file's footer with its length and magic."""
    size = file.seek(0, os.SEEK_END)
    file.seek(size - _TAIL_BYTES)
    return _length(file.read(_TAIL_BYTES), size) + _TAIL_BYTES


def _tail(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return the footer of the Parquet file that is the `size` bytes at `offset` of a file."""
    end = offset + size
    file.seek(max(offset, end - _TAIL_BYTES))
    length = _length(file.read(min(size, _TAIL_BYTES)), size)
    file.seek(end - _TAIL_BYTES - length)
    return file.read(length)


def _length(tail: bytes, size: int) -> int:
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > size - _TAIL_BYTES:
        raise ValueError("it does not end as a Parquet file")
    return length

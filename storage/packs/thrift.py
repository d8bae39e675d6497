"""Thrift's compact protocol, as far as the footer of a Parquet file uses it.

A footer is read into plain values and written again, so that its offsets can be changed. pyarrow
reads footers, but cannot write one for columns that are in a file already. The format is
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64 = 1, 2, 3, 4, 5, 6
BINARY, LIST, STRUCT = 8, 9, 12

_INTEGERS = (I16, I32, I64)
_LONG_LIST = 15  # in a list's first byte: its length follows

Struct = dict[int, tuple[int, Any]]  # of each field: its number, type and value
List = tuple[int, list[Any]]  # the type of the values, and the values


def read_struct(data: bytes | memoryview) -> Struct:
    """Return the struct that `data` begins with.

    Raises:
        ValueError: It is damaged, or has a type that footers do not use.
    """
    try:
        return _Reader(memoryview(data).cast("B")).struct()  # pyarrow's bytes are signed
    except (IndexError, RecursionError) as error:
        raise ValueError(f"it is no footer ({error})") from error


def struct_bytes(struct: Struct) -> bytes:
    """Return a struct's bytes."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while header := self._byte():
            kind, step = header & 15, header >> 4
            number = number + step if step else self._signed()
            fields[number] = (kind, self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):  # the type says it all
            return None
        if kind == BYTE:
            return self._byte()
        if kind in _INTEGERS:
            return self._signed()
        if kind == BINARY:
            return self._bytes(self._unsigned())
        if kind == STRUCT:
            return self.struct()
        if kind == LIST:
            header = self._byte()
            inner, length = header & 15, header >> 4
            if length == _LONG_LIST:
                length = self._unsigned()
            if inner in (TRUE, FALSE):  # in a list, a byte each
                return inner, [self._byte() for _ in range(length)]
            return inner, [self._value(inner) for _ in range(length)]
        raise ValueError(f"it has a value of type {kind}")

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _bytes(self, length: int) -> bytes:
        found = bytes(self._data[self._position : self._position + length])
        if len(found) < length:
            raise ValueError("it is cut off")
        self._position += length
        return found

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    def _signed(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in struct.items():
        step = number - last
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write_signed(out, number)
        _write_value(out, kind, value)
        last = number
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind == BYTE:
        out.append(value)
    elif kind in _INTEGERS:
        _write_signed(out, value)
    elif kind == BINARY:
        _write_unsigned(out, len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind == LIST:
        _write_list(out, *value)


def _write_list(out: bytearray, inner: int, values: list[Any]) -> None:
    out.append(min(len(values), _LONG_LIST) << 4 | inner)
    if len(values) >= _LONG_LIST:
        _write_unsigned(out, len(values))
    if inner in (TRUE, FALSE):
        out += bytes(values)
        return
    for value in values:
        _write_value(out, inner, value)


def _write_unsigned(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _write_signed(out: bytearray, number: int) -> None:
    _write_unsigned(out, number << 1 if number >= 0 else ~(number << 1))

"""Read the operators of an ONNX file without the onnx package.

A machine that only builds engines has none. Only the path from the model to its nodes' names and
operators is walked; weights and attributes are stepped over. Source of the field numbers:
onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; of the encoding:
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from clipfleet.errors import ConversionError

_MODEL_GRAPH, _GRAPH_NODE, _NODE_NAME, _NODE_OPERATOR = 7, 1, 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MORE, _LOW_BITS = 0x80, 0x7F  # of a varint's byte


def read_nodes(onnx: Path) -> list[tuple[str, str]]:
    """Return each node's name and operator type, in the file's order; subgraphs are left out.

    Raises:
        ConversionError: The file is not an ONNX model.
    """
    try:
        with onnx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return [
                (_text(data, node, _NODE_NAME), _text(data, node, _NODE_OPERATOR))
                for graph in _fields(data, (0, len(data)), _MODEL_GRAPH)
                for node in _fields(data, graph, _GRAPH_NODE)
            ]
    except (OSError, ValueError, IndexError) as error:
        raise ConversionError(f"{onnx} cannot be read as an ONNX model: {error}") from error


def _text(data: mmap.mmap, span: tuple[int, int], number: int) -> str:
    for start, end in _fields(data, span, number):
        return data[start:end].decode("utf-8")
    return ""


def _fields(data: mmap.mmap, span: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield where the fields of one number, of bytes, begin and end within a message."""
    position, end = span
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        size = 0
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if position + size > end:
            raise ValueError(f"a field at byte {position} runs past the end: the file is cut off")
        if number == wanted and kind == _BYTES:
            yield position, position + size
        position += size


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & _LOW_BITS) << shift
        if not byte & _MORE:
            return value, position
        shift += 7

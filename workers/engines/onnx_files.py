"""The files of an ONNX engine: the graph, and the weights outside it that the graph names.

A runtime opens each file that a graph names; the card must have the file's SHA-256. The graph is
read with a few lines, because a worker has no package `onnx`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from clipfleet.engine_files import check_files
from clipfleet.errors import EngineDamagedError
from clipfleet.model_card import ModelCard

Message = memoryview

# onnx.proto: of each message, the fields whose messages hold tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1  # of a tensor
_KEY, _VALUE = 1, 2  # of an entry of its external data
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # the wire types of Protocol Buffers


def check_onnx_files(card: ModelCard, engine: Path) -> None:
    """Check an ONNX file and its weights against the SHA-256 in the card.

    Raises:
        EngineDamagedError: A file is missing, unreadable, or has another SHA-256; or the graph
            names a file that the card does not.
    """
    check_files(card, engine)
    for name in sorted(external_files(engine)):
        if name != card.extra_file:
            has = f"has only {card.extra_file}" if card.extra_file else "has no extra file"
            raise EngineDamagedError(
                f"{engine} reads weights from {name!r}, and its card {has}: name the file and its "
                "SHA-256 in the card (extra_file, extra_file_sha256), or convert again"
            )


def external_files(path: Path) -> set[str]:
    """Return the files that an ONNX file's tensors name, as they are written there.

    A file that is no ONNX model names none: the runtime says what is wrong with it.
    """
    if not path.stat().st_size:  # no memory can be mapped
        return set()
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as model,
    ):
        return set(_locations(model, "model"))


def _locations(message: Message, kind: str) -> Iterator[str]:
    if kind == "tensor":
        yield from _location(message)
        return
    for number, value in _fields(message):
        inner = _FIELDS[kind].get(number)
        if inner and isinstance(value, memoryview):
            yield from _locations(value, inner)


def _location(tensor: Message) -> Iterator[str]:
    location, is_external = "", False
    for number, value in _fields(tensor):
        if number == _DATA_LOCATION:
            is_external = value == _EXTERNAL
        elif number == _EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(v) for key, v in _fields(value) if isinstance(v, memoryview)}
            if entry.get(_KEY) == b"location":
                location = entry.get(_VALUE, b"").decode(errors="backslashreplace")
    if is_external:
        yield location


def _fields(message: Message) -> Iterator[tuple[int, int | Message]]:
    """Yield the numbers and values of a message's fields; nothing more after a damaged one."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire == _BYTES:
            size, at = _varint(message, at)
            with message[at : at + size] as inner:
                yield number, inner
            at += size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            return


def _varint(message: Message, at: int) -> tuple[int, int]:
    """Return a number and the position after it; a number that is cut off ends the message."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at

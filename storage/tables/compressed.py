"""Compressed files of text (gzip, Zstandard, bzip2), told by their names and their bytes."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

import pyarrow as pa

from clipfleet.errors import SourceError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # by extension; pyarrow's names

_BEGINNINGS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # also a skippable frame
    "bz2": re.compile(rb"BZh[1-9]1AY&SY"),
}
_BUFFER_BYTES = 1 << 18


def uncompressed_name(path: str) -> str:
    """Return a path without the extension of its compression: `a.csv` of `a.csv.gz`."""
    name, extension = os.path.splitext(path)
    return name if extension.lower() in COMPRESSIONS else path


def uncompressed(file: BinaryIO, path: str) -> BinaryIO:
    """Return a file's bytes as a stream, uncompressed if the name says that it is compressed.

    If the bytes are damaged or cut off, a read raises an OSError.

    Raises:
        SourceError: Name and bytes contradict each other.
    """
    named = COMPRESSIONS.get(os.path.splitext(path)[1].lower())
    beginning = file.read(10)
    file.seek(0)
    found = next((name for name, form in _BEGINNINGS.items() if form.match(beginning)), None)
    if named is None and found is None:
        return file
    if named is None:
        extension = next(ext for ext, name in COMPRESSIONS.items() if name == found)
        raise SourceError(f"{path} is compressed with {found}: name it with {extension} at its end")
    if named != found:
        raise SourceError(
            f"{path} is named as a file of {named}, and its bytes are not: "
            + (f"they are of {found}; " if found else "")
            + "give it the name of what it is"
        )
    return io.BufferedReader(pa.input_stream(file, compression=named), _BUFFER_BYTES)

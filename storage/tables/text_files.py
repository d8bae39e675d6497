"""Text files: their lines, in UTF-8 or in an encoding that the user names."""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from clipfleet.errors import SourceError
from clipfleet.storage.filesystem.remote import is_remote
from clipfleet.storage.stores.files import open_file
from clipfleet.storage.tables.columns import show
from clipfleet.storage.tables.compressed import uncompressed

_CHUNK_CHARACTERS = 1 << 16
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_encoding(encoding: str) -> None:
    """Refuse a name that is no encoding of text.

    Raises:
        SourceError: It is none.
    """
    try:
        "\n".encode(encoding)
    except (LookupError, ValueError) as error:
        raise SourceError(
            f"encoding {encoding!r} is not known: give one of Python's names, such as gb18030 "
            "(for GBK and GB2312 too), big5 or utf-16"
        ) from error


def text_lines(path: str, encoding: str | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file, with their line ends, and their locations; None is UTF-8.

    Raises:
        SourceError: The file cannot be read, or is damaged, or of another encoding.
    """
    codec, number = encoding or "utf-8", 0
    with _opened(path) as file:
        try:
            for number, line in enumerate(_decoded(file, codec), 1):
                yield f"{path}, line {number}", line
        except (UnicodeError, OSError) as error:
            location = f"{path}, line {number + 1}"
            raise SourceError(read_error(location, error, encoding)) from error


def text_chunks(path: str, encoding: str | None) -> Iterator[str]:
    """Yield the text of a file in chunks; None is UTF-8.

    Raises:
        SourceError: The file cannot be opened.
        UnicodeError: It is of another encoding.
        OSError: It is damaged, or the disk did not answer.
    """
    with _opened(path) as file:
        text = io.TextIOWrapper(file, encoding=encoding or "utf-8-sig", newline="")
        while chunk := text.read(_CHUNK_CHARACTERS):
            yield chunk


def check_regular(path: str) -> None:
    """Refuse a pipe, which would wait for a writer, and a device, which may never end.

    A remote file is neither.

    Raises:
        SourceError: The path is one, or cannot be looked at.
    """
    if is_remote(path):
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise SourceError(
            f"{path} is a pipe, a socket, a device or a folder: a source is a regular file, which "
            "may be read more than once; write the items into one"
        )


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    check_regular(path)
    with ExitStack() as files:
        try:
            file = files.enter_context(open_file(path))
            content = files.enter_context(uncompressed(file, path))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        yield content


def _decoded(file: BinaryIO, codec: str) -> Iterator[str]:
    if len("\n".encode(codec)) > 1:  # as in UTF-16: its other characters may have the byte of \n
        yield from io.TextIOWrapper(file, encoding=codec, newline="\n")
        return
    for number, line in enumerate(file):  # line by line, so that an error has a line
        yield (line if number else line.removeprefix(codecs.BOM_UTF8)).decode(codec)


def read_error(location: str, error: Exception, encoding: str | None) -> str:
    """Return the message of an error of `text_lines` or `text_chunks`."""
    if isinstance(error, UnicodeDecodeError):
        return _decode_error(location, error, encoding)
    if isinstance(error, UnicodeError):
        return f"{location}: not {encoding}: {error}"
    if isinstance(error, OSError):
        return f"{location}: the file is damaged, or cannot be read: {error}"
    return f"{location}: {error}"


def _decode_error(location: str, error: UnicodeDecodeError, encoding: str | None) -> str:
    line, name = error.object, encoding or "UTF-8"
    reason = f"{location}: {show(line)} is not {name}: {error.reason}"
    if encoding is not None:
        return reason
    if line.startswith(_UTF_16_MARKS):
        return f"{reason}; the file begins as UTF-16 does: use --encoding utf-16"
    try:
        line.decode("gb18030")
    except UnicodeDecodeError:
        return f"{reason}; name the file's encoding with --encoding"
    return (
        f"{reason}; if it is Chinese in GBK or GB2312, use --encoding gb18030, else name the "
        "file's encoding"
    )

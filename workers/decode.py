"""From an item's bytes to a Pillow image, or to the one error that says why there is none.

The image is what plain Pillow gives: no `draft`, no EXIF rotation, an animation's first
picture. Only the formats of `clipfleet.images` are tried, so no file can start another
program (EPS and Ghostscript). A size is checked before anything is decoded.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from clipfleet.errors import ItemError, StorageError, UsageError
from clipfleet.images import IMAGE_FORMATS
from clipfleet.jobs import (
    DECODE_FAILED,
    EMPTY_FILE,
    MISSING,
    NOT_A_FILE,
    PERMISSION_DENIED,
    READ_FAILED,
    TOO_LARGE,
    UNSUPPORTED_FORMAT,
    Item,
)
from clipfleet.settings import Settings
from storage.filesystem import local_path

MAX_MESSAGE_LENGTH = 300  # characters

Image.init()  # all plug-ins now, not in the first thread that meets an odd file
_FORMATS = tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)  # AVIF may be left out
_WITH_CLEAR_MAGIC = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "JPEG2000")

_ADDRESS = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")

_CODES_OF_ERRNO = {
    errno.ENOENT: (MISSING, "there is no file"),
    errno.ENOTDIR: (MISSING, "a part of its path is no folder"),
    errno.ENAMETOOLONG: (MISSING, "the name is longer than the file system allows"),
    errno.EACCES: (PERMISSION_DENIED, "this user may not read it"),
    errno.EPERM: (PERMISSION_DENIED, "this user may not read it"),
    errno.EISDIR: (NOT_A_FILE, "it is a folder"),
    errno.ENXIO: (NOT_A_FILE, "it is a socket or a device"),
}
# The machine's or the server's trouble, not the item's: the shard is tried again.
_TRANSIENT = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
)
# What Pillow's decoders were seen to raise on damaged files, and what their like may.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    EOFError,
    BufferError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What an image may weigh; whatever is larger is `too_large`, and is not decoded."""

    max_pixels: int = 178_956_970
    max_bytes: int = 256 << 20

    @classmethod
    def from_settings(cls, settings: Settings) -> ImageLimits:
        return cls(max_pixels=settings.max_image_pixels, max_bytes=settings.max_image_bytes)


def read_image(
    item: Item, limits: ImageLimits | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an item's loaded image, and its original (width, height) in pixels.

    Raises:
        ItemError: The item has no image; `code` and message say why.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    limits = limits or ImageLimits()
    if item.uri is None:
        raise ItemError(MISSING, f"item {_shown(item.id)} has a text and no uri: no image to embed")
    return decode(read_bytes(item.uri, limits.max_bytes), item.uri, limits.max_pixels)


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of a regular file: an absolute path or a `file://` URL.

    Raises:
        ItemError: It cannot be read, is empty, or has more than `max_bytes`.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    try:
        with open(_local_path(uri), "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ItemError(NOT_A_FILE, f"{_shown(uri)} is no file, but a pipe or a device")
            if status.st_size > max_bytes:
                raise ItemError(
                    TOO_LARGE,
                    f"{_shown(uri)} has {status.st_size} bytes: more than max_image_bytes, which "
                    f"is {max_bytes}",
                )
            data = file.read()
    except OSError as error:
        raise _read_error(uri, error) from error
    except ValueError as error:  # NUL, or a character that the file system cannot encode
        raise _item_error(MISSING, f"{_shown(uri)} cannot be a file's name: {error}") from error
    if not data:
        raise ItemError(EMPTY_FILE, f"{_shown(uri)} is empty: it has 0 bytes")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def decode(data: bytes, name: str, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return the loaded image that `data` holds, and its (width, height) in pixels.

    Raises:
        ItemError: The bytes are no image of a known format, are damaged, or hold more than
            `max_pixels`. `name` is for its message.
    """
    shown = _shown(name)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            raise ItemError(
                TOO_LARGE,
                f"{shown} is {image.width}x{image.height}: more pixels than max_image_pixels, "
                f"which is {max_pixels}",
            )
        image.load()
    except UnidentifiedImageError as error:
        raise _unidentified(data, shown) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _item_error(TOO_LARGE, f"{shown} is a decompression bomb: {error}") from error
    except _DECODER_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise _item_error(DECODE_FAILED, f"{shown} is damaged: {reason}") from error
    return image, image.size


def _local_path(uri: str) -> str:
    if os.path.isabs(uri):  # also one that holds "://"
        return uri
    try:
        if "://" in uri:
            return local_path(uri)
    except UsageError as error:
        raise ItemError(
            READ_FAILED,
            f"{_shown(uri)} cannot be read: workers read absolute paths and file:// URLs of their "
            "own machine",
        ) from error
    raise ItemError(MISSING, f"{_shown(uri)} is not an absolute path: name a file by its own")


def _read_error(uri: str, error: OSError) -> ItemError | StorageError:
    if error.errno in _TRANSIENT:
        return StorageError(f"{_shown(uri)} cannot be read now: {error.strerror}")
    code, reason = _CODES_OF_ERRNO.get(
        error.errno or 0, (READ_FAILED, error.strerror or type(error).__name__)
    )
    return ItemError(code, f"{_shown(uri)} cannot be read: {reason}")


def _unidentified(data: bytes, shown: str) -> ItemError:
    for name in _WITH_CLEAR_MAGIC:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(data[:16]) is True:
            return ItemError(
                DECODE_FAILED, f"{shown} is damaged: it starts as {name} and cannot be opened as it"
            )
    return _item_error(
        UNSUPPORTED_FORMAT,
        f"{shown} is no image of a format that is read ({', '.join(_FORMATS)}): it starts with "
        f"{data[:12]!r}",
    )


def _item_error(code: str, message: str) -> ItemError:
    """An error whose message holds no object's address and is not too long."""
    message = _ADDRESS.sub("…", message)
    if len(message) > MAX_MESSAGE_LENGTH:
        message = message[: MAX_MESSAGE_LENGTH - 1] + "…"
    return ItemError(code, message)


def _shown(name: str) -> str:
    """A name as it stands in messages: quoted, with escapes, its middle left out if long."""
    quoted = ascii(name) if not name.isprintable() else repr(name)
    return quoted if len(quoted) <= 120 else f"{quoted[:40]}…{quoted[-79:]}"

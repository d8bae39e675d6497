"""What reads each format: Pillow, and the plug-ins of the extra `formats`; and what reads none.

The plug-ins are `pillow-heif` (HEIC, HEIF) and `pillow-jxl-plugin` (JPEG XL). What a file is, is
told by its first bytes, never by its name.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from contextlib import suppress
from typing import IO

from PIL import Image, ImageFile, PngImagePlugin

from clipfleet.error_codes import DECODE_FAILED, UNSUPPORTED_FORMAT
from clipfleet.errors import ItemError
from clipfleet.images import IMAGE_FORMATS
from clipfleet.workers.images.jxl import CODESTREAM, CONTAINER
from clipfleet.workers.item_errors import item_error, shown

# Errors that Pillow's decoders raise on damaged files, by experiment, and similar ones.
DECODER_ERRORS = (
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
    struct.error,
    zlib.error,
)

_WITH_CLEAR_MAGIC = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "JPEG2000")
_BY_PLUGIN = {"HEIF": "HEIC or HEIF", "JXL": "JPEG XL"}
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_BRANDS_END = 256  # bytes of a file's type box that are looked at

# Of the reasons that decoders give: the file is sound, and of a kind that they do not know.
_UNKNOWN_KIND = re.compile(
    r"unknown pixel mode|cannot handle \d+-bit layers|^Unsupported (feature|file-type|codec)"
    r"|has not been built in"
)


def _register_plugins() -> None:
    """Register what is installed, with one thread each: a decoder has one core."""
    with suppress(ImportError):
        import pillow_heif

        # Thumbnails and other pictures beside the first one are never shown.
        pillow_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )
    with suppress(ImportError):
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = 0  # none beside the caller's

        def open_jxl(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
            try:
                opened: ImageFile.ImageFile = JpegXLImagePlugin.JXLImageFile(file, name)
            except RuntimeError as error:  # "please build libjxl from source", for any damage
                raise OSError("libjxl cannot decode it") from error
            return opened

        Image.register_open("JXL", open_jxl, Image.OPEN["JXL"][1])


Image.init()  # load all plug-ins now, not in the first thread with an unusual file
_register_plugins()
# Colour profiles and texts of 1 MiB and more are sound. Pillow limits all texts of a file to this.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
READ_FORMATS = tuple(
    name for name in IMAGE_FORMATS if name in Image.OPEN
)  # a build of Pillow may lack AVIF


def is_unknown_kind(reason: str) -> bool:
    """Return whether a decoder's reason says that a sound file is of a kind it does not know."""
    return _UNKNOWN_KIND.search(reason) is not None


def unidentified(data: bytes, name: str) -> ItemError:
    """Return the error of a file that no decoder opens; `name` is for its message."""
    kind = _kind(data)
    if kind is None:
        return item_error(
            UNSUPPORTED_FORMAT,
            f"{shown(name)} is no image of a format that is read ({', '.join(READ_FORMATS)}): "
            f"it starts with {data[:12]!r}",
        )
    if kind in _BY_PLUGIN and kind not in READ_FORMATS:
        return item_error(
            UNSUPPORTED_FORMAT,
            f"{shown(name)} is {_BY_PLUGIN[kind]}, which the extra `formats` reads: install "
            "it where pictures are decoded (from a checkout: pip install '.[formats]'), and retry",
        )
    reason = _reason(data, kind)
    if is_unknown_kind(reason):
        return unknown_kind(name, reason)
    return item_error(
        DECODE_FAILED,
        f"{shown(name)} is damaged: it starts as {kind} and cannot be opened as it: {reason}",
    )


def unknown_kind(name: str, reason: str) -> ItemError:
    """Return the error of a sound file of a kind that its decoder does not know."""
    return item_error(
        UNSUPPORTED_FORMAT, f"{shown(name)} is of a kind that is not read ({reason}): convert it"
    )


def _kind(data: bytes) -> str | None:
    if data.startswith((CODESTREAM, CONTAINER)):
        return "JXL"
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), _BRANDS_END)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:  # both have the brand mif1
            return "HEIF"
    for kind in _WITH_CLEAR_MAGIC:
        accept = Image.OPEN[kind][1] if kind in Image.OPEN else None
        if accept is not None and accept(data[:16]) is True:
            return kind
    return None


def _reason(data: bytes, kind: str) -> str:
    """Return why a format's decoder does not open a file: `Image.open` does not tell."""
    try:
        Image.OPEN[kind][0](io.BytesIO(data), "")
    except DECODER_ERRORS as error:
        return str(error) or type(error).__name__
    return "Pillow refuses it"

"""From an item's bytes to a Pillow image, or to one error with the reason.

The image is the result of plain Pillow, with its plug-ins: no `draft`, an animation's first
picture. A rotation by EXIF is applied in TIFF only, where Pillow does it. Only the formats of
`clipfleet.images` are tried, so no file can start another program (EPS and Ghostscript). The size
is checked before decoding.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from clipfleet.error_codes import DECODE_FAILED, MISSING, TOO_LARGE
from clipfleet.errors import ItemError
from clipfleet.images import ORIGINAL_RULES, PictureRules
from clipfleet.storage.filesystem.remote import real_location
from clipfleet.workers.images.formats import (
    DECODER_ERRORS,
    READ_FORMATS,
    is_unknown_kind,
    unidentified,
    unknown_kind,
)
from clipfleet.workers.images.jpeg_end import with_end
from clipfleet.workers.images.jxl import jxl_size
from clipfleet.workers.images.read import read_bytes, refuse_url
from clipfleet.workers.images.rules import Remark, apply_rules
from clipfleet.workers.item_errors import item_error, shown

if TYPE_CHECKING:  # a decoder's process needs neither
    from clipfleet.items import Item
    from clipfleet.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """The limits of an image's size and location.

    A larger image is `too_large` and is not decoded. A file below none of the `input_roots` is
    `not_allowed` and is not opened; the roots are resolved paths, and without roots all paths
    are allowed. A disk error is retried, up to `attempts` in all. `fetch` returns a URL's bytes.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 256 << 20
    input_roots: tuple[str, ...] = ()
    attempts: int = 1
    fetch: Callable[[str], bytes] = refuse_url

    @classmethod
    def from_settings(
        cls, settings: Settings, fetch: Callable[[str], bytes] = refuse_url
    ) -> ImageLimits:
        return cls(
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
            input_roots=tuple(map(real_location, settings.input_roots)),
            attempts=settings.read_attempts,
            fetch=fetch,
        )


def configure_pillow(limits: ImageLimits) -> None:
    """Set Pillow's options for the whole process; call it once.

    Pillow's own limit against decompression bombs must not be below `limits`. Its warnings
    about unusual tags would fill the log: a damaged image is an error, any other is embedded.
    """
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    item: Item, limits: ImageLimits | None = None, rules: PictureRules = ORIGINAL_RULES
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an item's loaded image, and its original (width, height) in pixels.

    Raises:
        ItemError: The item has no image; `code` and message say why.
        StorageError: The file system did not answer, or the process has no file handle left.
    """
    limits = limits or ImageLimits()
    data, uri = read_image_bytes(item, limits)
    return decode(data, uri, limits.max_pixels, rules)


def read_image_bytes(item: Item, limits: ImageLimits) -> tuple[bytes, str]:
    """Return the bytes of an item's image, unchecked, and its uri.

    Raises:
        ItemError, StorageError: As for `read_image`.
    """
    if item.uri is None:
        raise no_image(item)
    data = read_bytes(
        item.uri,
        limits.max_bytes,
        limits.input_roots,
        attempts=limits.attempts,
        fetch=limits.fetch,
    )
    return data, item.uri


def no_image(item: Item) -> ItemError:
    """Return the error of an item that is a text."""
    return ItemError(MISSING, f"item {shown(item.id)} has a text and no uri: no image to embed")


def decode(
    data: bytes, name: str, max_pixels: int, rules: PictureRules = ORIGINAL_RULES
) -> tuple[Image.Image, tuple[int, int]]:
    """Return the loaded image that `data` holds, and its (width, height) in pixels.

    Raises:
        ItemError: As for `open_image` and `load_by_rules`.
    """
    image = open_image(data, name, max_pixels)
    image, _ = load_by_rules(image, data, name, max_pixels, rules)
    return image, image.size


def open_image(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Return the image that `data` holds, with its pixels not decoded yet.

    Raises:
        ItemError: The bytes are no image of a known format, are damaged, or hold more than
            `max_pixels`. `name` is for its message.
    """
    size = jxl_size(data)  # any other format is opened without being decoded
    if size is not None and size[0] * size[1] > max_pixels:
        raise _too_large(name, f"{size[0]}x{size[1]} pixels", max_pixels)
    try:
        with _item_errors(name, max_pixels):
            image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    except UnidentifiedImageError as error:
        raise unidentified(data, name) from error
    if image.width * image.height > max_pixels:
        raise _too_large(name, f"{image.width}x{image.height} pixels", max_pixels)
    return image


def load_image(image: Image.Image, name: str, max_pixels: int) -> None:
    """Decode the pixels of an opened image.

    Raises:
        ItemError: The image is damaged, or holds more than `max_pixels`.
    """
    with _item_errors(name, max_pixels):
        image.load()


def load_by_rules(
    image: Image.Image, data: bytes, name: str, max_pixels: int, rules: PictureRules
) -> tuple[Image.Image, Remark]:
    """Decode the pixels of an image that was opened from `data`, as the transform shall see them.

    Raises:
        ItemError: The image is damaged, holds more than `max_pixels`, or is of a kind that the
            rules refuse.
    """
    remark = Remark.NONE
    try:
        load_image(image, name, max_pixels)
    except ItemError:
        whole = with_end(data) if image.format == "JPEG" else None
        if whole is None:
            raise
        if rules.truncated == "error":
            raise _without_end(name) from None
        image = open_image(whole, name, max_pixels)
        load_image(image, name, max_pixels)
        remark = Remark.WITHOUT_END
    with _item_errors(name, max_pixels):
        image, found = apply_rules(image, name, rules)
    return image, remark | found


@contextmanager
def _item_errors(name: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit is twice `max_pixels`; it also covers images inside a format's file.
        found = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{found[1]} pixels" if found else "far too many pixels"
        raise _too_large(name, size, max_pixels) from error
    except MemoryError as error:
        raise item_error(DECODE_FAILED, f"{shown(name)} takes more memory than there is") from error
    except UnidentifiedImageError:
        raise
    except DECODER_ERRORS as error:
        reason = str(error) or type(error).__name__
        if is_unknown_kind(reason):
            raise unknown_kind(name, reason) from error
        raise item_error(DECODE_FAILED, f"{shown(name)} is damaged: {reason}") from error


def _without_end(name: str) -> ItemError:
    return item_error(
        DECODE_FAILED,
        f"{shown(name)} is cut off, and lacks only its end, no pixel: mend it, or embed it into "
        "another dataset with --truncated allow (CLIPFLEET_TRUNCATED)",
    )


def _too_large(name: str, size: str, max_pixels: int) -> ItemError:
    return item_error(
        TOO_LARGE,
        f"{shown(name)} has {size}, more than the {max_pixels} allowed: make it smaller, or raise "
        "CLIPFLEET_MAX_IMAGE_PIXELS",
    )

"""Thumbnails: small JPEG files of pictures, for pages."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageOps

_BACKGROUND = (255, 255, 255)  # under transparent pixels
_QUALITY = 82


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A JPEG file, and its size in pixels."""

    data: bytes
    width: int
    height: int


def thumbnail(image: Image.Image, side: int) -> Thumbnail:
    """Return a picture, turned as its EXIF data says, of at most `side` pixels in each direction.

    Raises:
        OSError, ValueError: Pillow cannot convert the picture.
    """
    small = ImageOps.exif_transpose(image)
    if small.has_transparency_data:
        rgba = small.convert("RGBA")
        small = Image.new("RGB", rgba.size, _BACKGROUND)
        small.paste(rgba, mask=rgba)
    else:
        small = small.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
    return Thumbnail(data=file.getvalue(), width=small.width, height=small.height)

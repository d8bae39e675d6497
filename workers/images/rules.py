"""Pictures that the original's transform flattens: the rules by which they become pixels.

The original clips values above 255, so a picture of 16 bits or of floating point becomes white or
black. It drops the alpha channel, so what transparent pixels hide becomes visible.
"""

from __future__ import annotations

from enum import Flag

import numpy as np
from PIL import Image

from clipfleet.error_codes import NOT_8_BIT
from clipfleet.images import Alpha, PictureRules, SixteenBit
from clipfleet.workers.item_errors import item_error, shown

_MORE_BITS = ("I", "F")  # begin the names of Pillow's modes of more than 8 bits: I, I;16B, F
_BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}


class Remark(Flag):
    """What is counted of a picture that has a vector."""

    NONE = 0
    TRANSPARENT = 1  # a pixel or more
    WITHOUT_END = 2


def apply_rules(image: Image.Image, name: str, rules: PictureRules) -> tuple[Image.Image, Remark]:
    """Return a loaded image as the transform shall see it, and whether it is transparent.

    Raises:
        ItemError: It has more than 8 bits, and the rule is `error`; or it has no number to scale.
        ValueError, MemoryError: Pillow cannot convert the image.
    """
    if image.mode.startswith(_MORE_BITS):
        image = _to_8_bits(image, name, rules.sixteen_bit)
        if image.mode.startswith(_MORE_BITS):
            return image, Remark.NONE
    if not _is_transparent(image):
        return image, Remark.NONE
    return _on_background(image, rules.alpha), Remark.TRANSPARENT


def _to_8_bits(image: Image.Image, name: str, rule: SixteenBit) -> Image.Image:
    """Return an image with its range of values as 0 to 255, or as it is."""
    if rule == "original":
        return image
    kind = "floating point" if image.mode == "F" else "more than 8 bits a pixel"
    if rule == "error":
        raise item_error(
            NOT_8_BIT,
            f"{shown(name)} is of {kind} ({image.mode}), which the original turns white or "
            "black: embed it into another dataset with --sixteen-bit scale|original "
            "(CLIPFLEET_SIXTEEN_BIT)",
        )
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise item_error(NOT_8_BIT, f"{shown(name)} is of {kind}, and none of it is a number")
    low, high = finite.min(), finite.max()
    if low == high:  # no range: 0 and less is black, 255 and more is white, as in the original
        low, high = 0.0, 255.0
    values = np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    values -= low
    values *= 255 / (high - low)
    grey = Image.fromarray(np.rint(values, out=values).clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")  # the value of transparent pixels, of a PNG
    if isinstance(clear, int):
        opaque = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    if "A" not in image.getbands():  # a colour of the palette, or one of all
        image = image.convert("RGBA")
    return bool(np.asarray(image.getchannel("A")).min() < 255)


def _on_background(image: Image.Image, alpha: Alpha) -> Image.Image:
    """Return an image on a background, in RGB; or as it is."""
    if alpha == "original":
        return image
    background = Image.new("RGBA", image.size, _BACKGROUNDS[alpha])
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")

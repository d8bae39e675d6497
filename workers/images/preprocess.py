"""From a Pillow image to the input pixels of the image tower.

The arithmetic is the original transform's, operation by operation in float32
(`Resize(BICUBIC)`, `convert("RGB")`, `ToTensor`, `Normalize`), so the pixels are equal
to the bit. As in the original, the resize comes before the conversion to RGB (it
changes the pixels of palette pictures), the aspect ratio is not kept, and nothing
is rotated (Pillow turns TIFF files when it reads them).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.error_codes import DECODE_FAILED
from clipfleet.errors import ItemError

# CLIP's statistics of its training images, for R, G and B on a scale of 0 to 1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_MEAN = np.array(MEAN, dtype=np.float32).reshape(3, 1, 1)
_STD = np.array(STD, dtype=np.float32).reshape(3, 1, 1)
_WHITE = np.float32(255)


def preprocess(image: Image.Image, resolution: int) -> NDArray[np.float32]:
    """Return an image's pixels, float32 (3, S, S) for a `resolution` of S.

    Raises:
        ItemError: Pillow cannot resize the image's mode or convert it to RGB.
    """
    pixels = np.empty((3, resolution, resolution), dtype=np.float32)
    preprocess_into(image, pixels)
    return pixels


def preprocess_into(image: Image.Image, out: NDArray[np.float32]) -> None:
    """Write an image's pixels to `out`, float32 (3, S, S).

    Raises:
        ItemError: Pillow cannot resize the image's mode or convert it to RGB.
    """
    _, height, width = out.shape
    rgb = np.asarray(resized_rgb(image, width, height))  # uint8 (S, S, 3)
    np.divide(rgb.transpose(2, 0, 1), _WHITE, out=out, dtype=np.float32)
    np.subtract(out, _MEAN, out=out)
    np.divide(out, _STD, out=out)


def preprocess_batch(
    images: Sequence[Image.Image], resolution: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the pixels of n images, float32 (n, 3, S, S): in `out`, if it is given.

    Raises:
        ItemError: Pillow cannot resize an image's mode or convert it to RGB.
        ValueError: `out` has another shape or dtype.
    """
    shape = (len(images), 3, resolution, resolution)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}: expected float32 {shape}")
    for image, pixels in zip(images, out, strict=True):
        preprocess_into(image, pixels)
    return out


def resized_rgb(image: Image.Image, width: int, height: int) -> Image.Image:
    try:
        return image.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    except (ValueError, OSError, MemoryError) as error:
        raise ItemError(
            DECODE_FAILED,
            f"a {image.width}x{image.height} image of mode {image.mode} cannot be made RGB of "
            f"{width}x{height}: {error}",
        ) from error

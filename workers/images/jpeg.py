"""JPEG files: which of them a GPU may decode, and decoding straight into given memory.

libjpeg-turbo takes half the time of Pillow for equal pixels.

Pillow uses the same library, and copies the pixels twice until NumPy has them. Only sound files in
YCbCr or grey are taken, whose header Pillow takes, too: libjpeg-turbo accepts some that Pillow
refuses. Pillow decodes all others, and says what is wrong with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    import simplejpeg
except ImportError:  # no wheel for this platform
    simplejpeg = None

_FORMATS = frozenset({"JPEG", "MPO"})
_MODES = frozenset({"RGB", "L"})
_COLOUR_SPACES = frozenset({"YCbCr", "Gray"})
_HUFFMAN_TABLES = b"\xff\xc4"
_END = b"\xff\xd9"  # of a JPEG file
_GPU_MIN_SIDE = 16  # pixels: a block of coarse colour
_GPU_SUBSAMPLINGS = frozenset({"444", "422", "420", "Gray"})  # whose pixels are close to Pillow's


def may_be_taken(image: Image.Image) -> bool:
    """Return whether `decode_jpeg_into` may take an opened image's file: Pillow took its header."""
    return simplejpeg is not None and image.format in _FORMATS and image.mode in _MODES


def decode_jpeg_into(data: bytes, out: NDArray[np.uint8]) -> bool:
    """Write a JPEG file's pixels to uint8 (height, width, 3).

    Return False if the file is damaged, of another size, or in other colours.
    """
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != out.shape[:2] or colour_space not in _COLOUR_SPACES:
            return False
        simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out, strict=True)
    except ValueError:
        return False
    return True


def gpu_may_decode(image: Image.Image, data: bytes) -> bool:
    """Return whether a GPU may decode an opened image's file, which `decode_jpeg_into` may take.

    nvImageCodec fills up a file that was cut off, which is an error to Pillow. It takes the
    channels of other colours for those of YCbCr. It was 13 levels off in pictures 3 pixels wide.
    Neither the JPEG engines nor the kernels of a GPU decode progressive files.
    """
    if "progressive" in image.info:
        return False
    # Files without tables: frames of a film, and those with arithmetic coding.
    has_tables = bool(getattr(image, "quantization", None)) and _HUFFMAN_TABLES in data
    if not (has_tables and data.endswith(_END)):
        return False
    try:
        height, width, colour_space, subsampling = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return (
        min(height, width) >= _GPU_MIN_SIDE
        and colour_space in _COLOUR_SPACES
        and subsampling in _GPU_SUBSAMPLINGS
    )

"""JPEG straight into given memory, with libjpeg-turbo: half the time of Pillow, and equal pixels.

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

"""Pillow's bicubic resize of 8-bit channels, as tables of integer weights for a GPU.

Pillow resizes along x first, then along y; tall pictures the other way round, and which ones are
tall depends on its version. Each pass sums the pixels below a window, multiplied by weights of 22
fractional bits, and rounds to 8 bits (Pillow's `src/libImaging/Resample.c`). With the same weights
and the same order the result is equal to the bit.
"""

from __future__ import annotations

import numpy as np
import PIL
from numpy.typing import NDArray

PRECISION_BITS = 22  # 32 less 8 of a pixel, and 2 because the weights' sum may exceed 1
_A = -0.5  # of the cubic convolution
_SUPPORT = 2.0  # pixels, on each side of the centre
_PILLOW = int(PIL.__version__.partition(".")[0])


def is_y_first(width: int, height: int, resolution: int) -> bool:
    """Return whether this Pillow resizes a picture to (resolution, resolution) along y first."""
    if _PILLOW < 13:  # 12.3, the oldest that is allowed
        return height > 100 * width and height > resolution
    return height > resolution and height - resolution > 2 * (width - resolution)


def weights(size: int, resolution: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the windows and the weights that make `resolution` pixels of `size` pixels.

    Windows are int32 (resolution, 2): the first pixel and the number of pixels. Weights are int32
    (resolution, k) for the longest possible window of k; those behind a window are 0.
    """
    scale = size / resolution
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    centres = (np.arange(resolution) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centres + support + 0.5).astype(np.int64), size) - first
    longest = int(np.ceil(support)) * 2 + 1
    offsets = np.arange(longest)
    inside = offsets < count[:, None]
    distances = (offsets + first[:, None] - centres[:, None] + 0.5) * (1.0 / stretch)
    values = np.where(inside, _bicubic(distances), 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]  # cumsum adds in order, as Pillow does
    scaled = values * (1 << PRECISION_BITS)
    rounded = np.where(scaled < 0, scaled - 0.5, scaled + 0.5).astype(np.int32)
    return np.stack([first, count], axis=1).astype(np.int32), np.where(inside, rounded, 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1.0, near, np.where(x < _SUPPORT, far, 0.0))

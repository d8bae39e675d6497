"""The weights for GPUs beside the installed Pillow's resize: equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.workers.engines.cuda.compile_resize import PTX, source_line
from clipfleet.workers.images.bicubic import is_y_first, weights
from clipfleet.workers.images.region import MAX_OWN_SIDE
from tests.unit.workers.fake_driver import weighted

MAX_PIXELS = 40_000  # of one picture: more cost time, and show no more


def resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize uint8 (height, width, 3) in two passes of integers, as the kernels do."""
    height, width, _ = pixels.shape
    axes = (0, 1) if is_y_first(width, height, side) else (1, 0)
    for axis in axes:
        pixels = weighted(pixels, *weights(pixels.shape[axis], side), axis)
    return pixels


def assert_equal(width: int, height: int, side: int) -> None:
    random = np.random.default_rng(width * 7 + height)
    # Extremes make sums overflow 8 bits on both sides.
    pixels = random.choice(np.array([0, 1, 127, 254, 255], np.uint8), (height, width, 3))
    expected = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        resized(pixels, side), np.asarray(expected), err_msg=f"{width}x{height} to {side}"
    )


@pytest.mark.parametrize(("side", "count"), [(7, 200), (16, 150), (224, 30), (336, 10)])
def test_random_sizes_are_resized_as_pillow_does(side: int, count: int) -> None:
    random = np.random.default_rng(side)
    for _ in range(count):
        width = int(np.exp(random.uniform(0, 7)))
        height = min(int(np.exp(random.uniform(0, 7))), max(1, MAX_PIXELS // width))
        assert_equal(width, height, side)


@pytest.mark.parametrize("side", [16, 224])
def test_sizes_near_the_resolution_and_at_the_limits_are_resized_as_pillow_does(side: int) -> None:
    for width, height in [
        *[(side + more, side) for more in (-1, 0, 1)],
        *[(side, side + more) for more in (-1, 1)],
        *((1, 1), (1, 2), (2, 1), (1, 3000), (3000, 1)),
        *((MAX_OWN_SIDE, 1), (1, MAX_OWN_SIDE)),
    ]:
        assert_equal(width, height, side)


def test_the_order_of_the_passes_is_pillows_on_both_sides_of_each_border() -> None:
    """Tall pictures of a width w, or the first heights at which Pillow changes its order."""
    side = 8
    for width in (1, 2, 4, 7, 8, 9, 12):
        heights = [h for h in range(2, 1300) if is_y_first(width, h, side)]
        border = min(heights, default=0)
        for height in {max(1, border - 1), border or 1, border + 1}:
            assert_equal(width, height, side)


def test_the_compiled_kernels_are_those_of_the_source() -> None:
    assert PTX.read_text().partition("\n")[0] == source_line(), (
        "resize.cu changed: python -m clipfleet.workers.engines.cuda.compile_resize"
    )

"""Pixels: shapes, known values, batches. (Parity with the original has a file of its own.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.workers.images.preprocess import (
    MEAN,
    STD,
    preprocess,
    preprocess_batch,
    preprocess_into,
)


def grey(level: int, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_plain_image_gives_its_level_less_the_mean_over_the_deviation(level: int) -> None:
    pixels = preprocess(grey(level), 8)
    for channel, mean, std in zip(pixels, MEAN, STD, strict=True):
        np.testing.assert_allclose(channel, (level / 255 - mean) / std, rtol=1e-6)


def test_channels_come_first_in_the_order_red_green_blue() -> None:
    red = preprocess(Image.new("RGB", (9, 9), (255, 0, 0)), 4)
    assert red.shape == (3, 4, 4)
    assert (red[0] > 1).all()
    assert (red[1:] < 0).all()


def test_an_oblong_image_is_squeezed_not_cropped() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (0, 0, 60, 100))  # the left fifth, which a centre crop would lose
    pixels = preprocess(image, 100)
    assert (pixels[:, :, 5] > 1).all()
    assert (pixels[:, :, 40] < 0).all()


def test_a_palette_image_is_resized_before_its_colours_are_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    reds = np.unique(preprocess(image, 8)[0])
    assert len(reds) == 2  # bicubic after the conversion would mix them


def test_the_image_itself_is_left_alone() -> None:
    image = Image.new("P", (30, 20))
    preprocess(image, 8)
    assert (image.mode, image.size) == ("P", (30, 20))


def test_pixels_are_written_into_the_given_row() -> None:
    rows = np.full((3, 3, 8, 8), 7, dtype=np.float32)
    preprocess_into(grey(255), rows[1])
    np.testing.assert_array_equal(rows[1], preprocess(grey(255), 8))
    assert (rows[[0, 2]] == 7).all()


def test_a_batch_is_its_images_one_by_one() -> None:
    images = [grey(1), grey(200, (5, 50)), grey(90).convert("L")]
    out = np.empty((3, 3, 8, 8), dtype=np.float32)
    assert preprocess_batch(images, 8, out) is out
    np.testing.assert_array_equal(out, [preprocess(image, 8) for image in images])
    np.testing.assert_array_equal(preprocess_batch(images, 8), out)


def test_a_batch_of_no_images_is_empty() -> None:
    assert preprocess_batch([], 8).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "out", [np.empty((1, 3, 8, 9), np.float32), np.empty((2, 3, 8, 8)), np.empty((1, 3, 8, 8))]
)
def test_an_array_of_another_shape_or_dtype_is_refused(out: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \(1, 3, 8, 8\)"):
        preprocess_batch([grey(0)], 8, out)

"""JPEG straight into given memory, beside Pillow: equal to the bit, or left to Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from clipfleet.errors import ItemError
from clipfleet.workers.images.decode import decode, open_image
from clipfleet.workers.images.jpeg import decode_jpeg_into, may_be_taken

pytest.importorskip("simplejpeg")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about odd tags

MAX_PIXELS = 1 << 20
SIZES = ((64, 48), (1, 1), (17, 33), (8, 9), (333, 7))


def encoded(mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """Return a smooth picture with some noise as a JPEG file."""
    width, height = size
    random = np.random.default_rng(width * height)
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    waves = np.sin(x / 9) * np.cos(y / 7)
    noise = random.normal(size=(height, width, len(mode))) * 20
    pixels = np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def taken(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels, if a decoder takes them without Pillow."""
    try:
        image = open_image(data, "a.jpg", MAX_PIXELS)
    except ItemError:
        return None
    if not may_be_taken(image):
        return None
    out = np.full((image.height, image.width, 3), 77, np.uint8)
    return out if decode_jpeg_into(data, out) else None


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    image, size = decode(data, "a.jpg", MAX_PIXELS)
    assert image.size == size
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
def test_every_form_of_a_jpeg_has_pillows_pixels(
    subsampling: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    for quality in (5, 60, 95, 100):
        data = encoded(size=size, subsampling=subsampling, quality=quality, **options)
        np.testing.assert_array_equal(taken(data), by_pillow(data))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_grey_jpeg_has_pillows_pixels_in_each_channel(size: tuple[int, int]) -> None:
    data = encoded("L", size)
    np.testing.assert_array_equal(taken(data), by_pillow(data))


def test_a_jpeg_with_exif_and_a_profile_is_not_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encoded(exif=exif, icc_profile=b"profile" * 9, comment=b"a comment", dpi=(300, 300))
    np.testing.assert_array_equal(taken(data), by_pillow(data))


@pytest.mark.parametrize(
    "data",
    [
        encoded("CMYK"),
        encoded(keep_rgb=True),
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        encoded()[:300],
        encoded()[:-200],
    ],
    ids=["CMYK", "RGB", "empty", "start", "PNG", "header", "cut off"],
)
def test_what_is_no_sound_file_in_ycbcr_or_grey_is_left_to_pillow(data: bytes) -> None:
    assert taken(data) is None


SOUND = [
    encoded(size=(40, 24)),
    encoded(size=(40, 24), progressive=True),
    encoded("L", (24, 40)),
    encoded(size=(40, 24), subsampling="4:2:0", restart_marker_blocks=1, exif=Image.Exif()),
]


def assert_pillows_or_not_taken(data: bytes) -> None:
    pixels = taken(data)
    if pixels is None:
        return
    try:
        expected = by_pillow(data)
    except ItemError as error:
        raise AssertionError(f"Pillow refuses what was taken: {error}") from error
    np.testing.assert_array_equal(pixels, expected)


changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "drop", "double"]), st.floats(0, 1), st.integers(0, 255)
    ),
    min_size=1,
    max_size=3,
)


@given(data=st.sampled_from(SOUND), changes=changes)
@settings(max_examples=600, deadline=None)
def test_a_damaged_file_has_pillows_pixels_or_is_left_to_pillow(
    data: bytes, changes: list[tuple[str, float, int]]
) -> None:
    for what, place, value in changes:
        at = int(place * (len(data) - 1))
        if what == "set":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "drop":
            data = data[:at] + data[at + value :]
        else:
            data = data[: at + value] + data[at:]
        if not data:
            return
    assert_pillows_or_not_taken(data)


VALUES = (0, 1, 2, 3, 0x11, 0x22, 0x7F, 0xC0, 0xD9, 0xFF)


@pytest.mark.parametrize("number", range(len(SOUND)))
def test_each_byte_of_the_header_may_be_any_that_matters(number: int) -> None:
    """All markers, lengths and sizes are in the first bytes."""
    data = SOUND[number]
    header = data.index(b"\xff\xda") + 14
    for at in range(2, header):
        for value in (*VALUES, data[at] ^ 1, data[at] ^ 0x80):
            assert_pillows_or_not_taken(data[:at] + bytes([value]) + data[at + 1 :])


def test_a_header_that_only_libjpeg_takes_is_left_to_pillow() -> None:
    """Pillow knows no marker FF01; libjpeg-turbo passes over it."""
    sound = encoded(size=(40, 24))
    end = 4 + int.from_bytes(sound[4:6], "big")
    data = sound[:end] + b"\xff\x01" + sound[end:]
    out = np.empty((24, 40, 3), np.uint8)
    assert decode_jpeg_into(data, out)
    with pytest.raises(ItemError, match="is damaged"):
        by_pillow(data)
    assert taken(data) is None

"""Our pixels against the original's transform: equal to the last bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipfleet.error_codes import DECODE_FAILED
from clipfleet.errors import ItemError
from clipfleet.images import PictureRules
from clipfleet.workers.images.decode import decode
from clipfleet.workers.images.preprocess import preprocess
from tests.original import original_utils

MODES = (
    *("RGB", "L", "LA", "P", "PA", "RGBA", "CMYK", "1", "I;16", "I;16B", "I", "F"),
    *("YCbCr", "HSV", "LAB", "RGBX", "RGBa"),
)
SIZES = ((500, 375), (100, 300), (224, 224), (1, 1), (3, 1000))  # width, height


def random_image(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Random pixels in every band of a mode, the hidden ones below alpha included."""
    random = np.random.default_rng(seed)
    shape = (size[1], size[0])
    if mode.startswith("I;16"):
        return Image.fromarray(random.integers(0, 1 << 16, shape, dtype=np.uint16)).convert(mode)
    if mode == "I":
        return Image.fromarray(random.integers(-1000, 70000, shape, dtype=np.int32))
    if mode == "F":
        return Image.fromarray(random.uniform(-10, 300, shape).astype(np.float32))
    if mode == "1":
        return Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    data = random.integers(0, 256, (*shape, bands), dtype=np.uint8)
    image = Image.frombytes(mode, size, data.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def original(image: Image.Image, resolution: int) -> np.ndarray[Any, Any]:
    pixels: np.ndarray[Any, Any] = original_utils().image_transform(resolution)(image).numpy()
    return pixels


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_pixels_equal_the_originals(mode: str, size: tuple[int, int]) -> None:
    image = random_image(mode, size)
    ours = preprocess(image, 224)
    assert ours.dtype == np.float32
    assert ours.shape == (3, 224, 224)
    np.testing.assert_array_equal(ours, original(image, 224), strict=True)


def test_pixels_equal_the_originals_at_336() -> None:
    image = random_image("RGB", (640, 480))
    np.testing.assert_array_equal(preprocess(image, 336), original(image, 336), strict=True)


def test_every_level_of_every_channel_equals_the_originals() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    image = Image.fromarray(levels)
    np.testing.assert_array_equal(preprocess(image, 16), original(image, 16), strict=True)


def test_a_rotation_in_exif_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = encoded(random_image("RGB", (300, 200)), "JPEG", exif=exif)
    image, size = decode(data, "rotated.jpg", max_pixels=1 << 20)
    assert size == (300, 200)
    expected = original(Image.open(io.BytesIO(data)), 224)
    np.testing.assert_array_equal(preprocess(image, 224), expected, strict=True)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 90}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("L", "JPEG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("I;16", "PNG", {}),
        ("I;16", "TIFF", {}),
        ("I;16B", "TIFF", {}),
        ("I", "TIFF", {}),
        ("F", "TIFF", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "AVIF", {}),
        ("P", "GIF", {}),
        ("1", "TIFF", {"compression": "group4"}),
        ("RGB", "JPEG2000", {}),
        ("RGBA", "TGA", {}),
    ],
)
def test_a_files_pixels_equal_the_originals(mode: str, kind: str, options: dict[str, Any]) -> None:
    data = encoded(random_image(mode, (90, 120)), kind, **options)
    ours = preprocess(decode(data, "a file", max_pixels=1 << 20)[0], 64)
    expected = original(Image.open(io.BytesIO(data)), 64)
    np.testing.assert_array_equal(ours, expected, strict=True)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("size", [(90, 120), (30, 20)], ids=str)
def test_the_rules_leave_opaque_pictures_of_8_bits_alone(mode: str, size: tuple[int, int]) -> None:
    image = random_image(mode, size)
    if mode in ("RGBA", "LA"):
        image.putalpha(255)
    data = encoded(image, "TIFF")
    rules = PictureRules(sixteen_bit="scale", alpha="white", truncated="allow")
    ours = preprocess(decode(data, "a file", 1 << 20, rules)[0], 64)
    expected = original(Image.open(io.BytesIO(data)), 64)
    np.testing.assert_array_equal(ours, expected, strict=True)


def test_an_animation_gives_its_first_picture_as_the_original_does() -> None:
    frames = [random_image("RGB", (50, 40), seed) for seed in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    ours = preprocess(decode(data, "a.gif", max_pixels=1 << 20)[0], 64)
    np.testing.assert_array_equal(ours, original(Image.open(io.BytesIO(data)), 64), strict=True)


def test_where_the_original_raises_the_item_fails() -> None:
    image = Image.new("La", (30, 20))  # no file has this mode, but Pillow does
    with pytest.raises(ValueError, match="conversion from La"):
        original(image, 64)
    with pytest.raises(ItemError, match=r"a 30x20 image of mode La cannot be made RGB") as raised:
        preprocess(image, 64)
    assert raised.value.code == DECODE_FAILED

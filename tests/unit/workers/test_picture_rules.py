"""Pictures that the original's transform flattens: each rule, and what is counted."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipfleet.error_codes import DECODE_FAILED, NOT_8_BIT
from clipfleet.errors import ItemError
from clipfleet.images import DEFAULT_RULES, ORIGINAL_RULES, PictureRules
from clipfleet.workers.images.decode import decode, load_by_rules, open_image
from clipfleet.workers.images.jpeg import gpu_may_decode
from clipfleet.workers.images.jpeg_end import with_end
from clipfleet.workers.images.rules import Remark, apply_rules

SCALED = PictureRules(sixteen_bit="scale")
MEGAPIXEL = 1 << 20


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def loaded(data: bytes, rules: PictureRules) -> tuple[NDArray[Any], Remark]:
    image, remark = load_by_rules(open_image(data, "a", MEGAPIXEL), data, "a", MEGAPIXEL, rules)
    return np.asarray(image), remark


def scaled(values: NDArray[Any]) -> list[int]:
    """The 8 bits of a row of values."""
    image, _ = apply_rules(Image.fromarray(np.atleast_2d(values)), "a", SCALED)
    assert image.mode == "L"
    return [int(value) for value in np.asarray(image)[0]]


def photograph(side: int = 48) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side - 3), Image.Resampling.BICUBIC)


# More than 8 bits


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_a_picture_of_more_than_8_bits_is_an_error_that_names_the_choices(mode: str) -> None:
    data = saved(Image.new("I;16", (3, 2)).convert("I").convert(mode), "TIFF")
    name = "/" + "long/" * 60 + "deep.tif"
    with pytest.raises(ItemError, match=r"--sixteen-bit scale\|original") as raised:
        decode(data, name, MEGAPIXEL, DEFAULT_RULES)
    assert raised.value.code == NOT_8_BIT
    assert "CLIPFLEET_SIXTEEN_BIT" in str(raised.value)
    assert decode(data, name, MEGAPIXEL, ORIGINAL_RULES)[0].mode.startswith(mode[0])


def test_scale_makes_the_range_of_a_picture_0_to_255() -> None:
    assert scaled(np.array([2000, 32000, 62000], np.uint16)) == [0, 128, 255]
    assert scaled(np.array([-(2**31), 0, 2**31 - 1], np.int32)) == [0, 128, 255]
    assert scaled(np.array([0.25, 0.5, 0.75], np.float32)) == [0, 128, 255]


def test_scale_leaves_infinite_values_out_of_the_range() -> None:
    row = np.array([np.nan, -np.inf, 1, 2, 3, np.inf], np.float32)
    assert scaled(row) == [0, 0, 0, 128, 255, 255]
    with pytest.raises(ItemError, match="none of it is a number") as raised:
        scaled(np.full(3, np.nan, np.float32))
    assert raised.value.code == NOT_8_BIT


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (77, 77), (255, 255), (65535, 255)])
def test_a_picture_of_one_value_has_no_range_and_becomes_what_the_original_makes_of_it(
    value: int, grey: int
) -> None:
    assert scaled(np.full(3, value, np.uint16)) == [grey] * 3
    image = Image.fromarray(np.full((2, 2), value, np.int32))
    assert np.unique(np.asarray(image.convert("RGB"))).tolist() == [grey]


def test_different_pictures_of_16_bits_stay_different() -> None:
    rising = np.arange(2000, 62000, 1000, dtype=np.uint16).reshape(6, 10)
    for one, other in itertools.combinations([rising, rising[::-1], rising.T.reshape(6, 10)], 2):
        first, second = (loaded(saved(Image.fromarray(x), "PNG"), SCALED)[0] for x in (one, other))
        assert (first != second).any()
    flat = loaded(saved(Image.fromarray(rising), "PNG"), ORIGINAL_RULES)[0].clip(0, 255)
    assert np.unique(flat).tolist() == [255]


def test_the_transparent_value_of_a_16_bit_png_stays_transparent() -> None:
    values = np.array([[1000, 2000, 3000]], np.uint16)
    data = saved(Image.fromarray(values), "PNG", transparency=2000)
    rules = PictureRules(sixteen_bit="scale", alpha="white")
    pixels, remark = loaded(data, rules)
    assert (pixels[0, :, 0].tolist(), remark) == ([0, 255, 255], Remark.TRANSPARENT)
    assert loaded(data, ORIGINAL_RULES)[1] == Remark.NONE


# Transparent pictures


def logo(mode: str, opacity: int) -> bytes:
    """A black picture, whose left half has an opacity."""
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    image.paste((0, 0, 0, opacity), (0, 0, 4, 4))
    if mode == "P":
        image = Image.new("P", (8, 4), 1)
        image.putpalette([0, 0, 0] * 2)
        image.paste(0, (0, 0, 4, 4))
        return saved(image, "PNG", transparency=bytes((opacity, 255)))
    if mode == "RGB":
        image = Image.new("RGB", (8, 4), (0, 0, 0))
        image.paste((1, 2, 3), (0, 0, 4, 4))
        clear = (1, 2, 3) if opacity == 0 else (9, 9, 9)
        return saved(image, "PNG", transparency=clear)
    return saved(image.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_transparent_picture_is_put_on_a_ground_and_counted(mode: str) -> None:
    data = logo(mode, 0)
    for alpha, ground in (("white", 255), ("black", 0)):
        pixels, remark = loaded(data, PictureRules(alpha=alpha))  # type: ignore[arg-type]
        assert remark == Remark.TRANSPARENT
        assert pixels.shape == (4, 8, 3)
        assert (pixels[:, :4] == ground).all()
        assert (pixels[:, 4:] == 0).all()
    found, remark = loaded(data, DEFAULT_RULES)
    assert remark == Remark.TRANSPARENT
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_picture_whose_pixels_are_all_opaque_is_not_transparent(mode: str) -> None:
    data = logo(mode, 255)
    pixels, remark = loaded(data, PictureRules(alpha="white"))
    assert remark == Remark.NONE
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_half_transparent_pixels_are_mixed_with_the_ground() -> None:
    pixels, remark = loaded(logo("RGBA", 254), PictureRules(alpha="white"))
    assert remark == Remark.TRANSPARENT
    assert pixels[0, 0].tolist() == [1, 1, 1]


# JPEG files without their ends

KINDS = [
    ("RGB", {"quality": 75}),
    ("RGB", {"quality": 75, "restart_marker_rows": 1}),
    ("RGB", {"quality": 60, "progressive": True}),
    ("L", {"quality": 75, "restart_marker_blocks": 1}),
]


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_wherever_a_jpeg_file_is_cut_off_no_pixel_is_made_up(
    mode: str, options: dict[str, Any]
) -> None:
    whole = saved(photograph().convert(mode), "JPEG", **options)
    pixels = np.asarray(Image.open(io.BytesIO(whole)))
    assert with_end(whole[:-1]) == with_end(whole[:-2]) == whole
    for size in range(2, len(whole) - 2):
        mended = with_end(whole[:size])
        if mended is not None:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mended))), pixels)


def test_a_jpeg_file_without_its_end_is_embedded_if_allowed_and_counted() -> None:
    whole = saved(photograph(), "JPEG")
    with pytest.raises(ItemError, match=r"only its end, no pixel: .* --truncated allow") as raised:
        loaded(whole[:-2], DEFAULT_RULES)
    assert raised.value.code == DECODE_FAILED
    pixels, remark = loaded(whole[:-2], PictureRules(truncated="allow"))
    assert remark == Remark.WITHOUT_END
    np.testing.assert_array_equal(pixels, loaded(whole, DEFAULT_RULES)[0])


@pytest.mark.parametrize("lost", [3, 20, 200])
def test_a_jpeg_file_that_lacks_pixels_is_damaged_whatever_the_rule(lost: int) -> None:
    data = saved(photograph(), "JPEG")[:-lost]
    for rules in (DEFAULT_RULES, PictureRules(truncated="allow")):
        with pytest.raises(ItemError, match="is damaged: image file is truncated") as raised:
            loaded(data, rules)
        assert raised.value.code == DECODE_FAILED


def test_a_progressive_file_that_ends_between_two_scans_lacks_sharpness() -> None:
    whole = saved(photograph(), "JPEG", progressive=True)
    scans = [n for n in range(len(whole)) if whole[n : n + 2] == b"\xff\xda"]
    assert len(scans) > 2
    before_tables = whole.rfind(b"\xff\xc4", 0, scans[-1])
    for end in (scans[-1], before_tables):
        assert with_end(whole[:end]) is None


def test_a_file_that_has_its_end_lacks_something_else() -> None:
    assert with_end(saved(photograph(), "JPEG")) is None
    assert with_end(b"\xff\xd8\xff") is None


def test_a_gpu_gets_no_file_without_its_end() -> None:
    whole = saved(photograph(), "JPEG")
    image = open_image(whole, "a", MEGAPIXEL)
    assert gpu_may_decode(image, whole)
    assert not gpu_may_decode(image, whole[:-2])

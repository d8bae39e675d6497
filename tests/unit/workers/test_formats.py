"""Formats: those of plug-ins, and sound files that no decoder knows, are never called damaged."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from clipfleet.errors import ItemError
from clipfleet.workers.images import decode as decoding
from clipfleet.workers.images import formats
from clipfleet.workers.images.decode import decode
from clipfleet.workers.images.jxl import jxl_size

MEGAPIXEL = 1 << 20
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
HEIF = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"  # Pillow's AVIF decoder looks at these, too
JXL = b"\xff\x0a\xcb\x06"  # 64×48
JXL_IN_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "


def picture(size: tuple[int, int] = (64, 48)) -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def failure(data: bytes, max_pixels: int = MEGAPIXEL) -> tuple[str, str]:
    with pytest.raises(ItemError) as raised:
        decode(data, "a.jpg", max_pixels)
    return raised.value.code, str(raised.value)


def needs(package: str) -> Any:
    return pytest.importorskip(package, reason="the extra `formats` is not installed")


@pytest.mark.parametrize("data", [HEIC, HEIF, JXL, JXL_IN_BOXES])
def test_without_its_plug_in_a_file_is_unsupported_and_names_the_extra(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = tuple(name for name in formats.READ_FORMATS if name not in ("HEIF", "JXL"))
    for module in (formats, decoding):
        monkeypatch.setattr(module, "READ_FORMATS", without)
    code, message = failure(data)
    assert code == "unsupported_format"
    assert "pip install '.[formats]'" in message
    assert ("JPEG XL" in message) == (data in (JXL, JXL_IN_BOXES))


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_heic_picture_is_read(brand: bytes) -> None:
    needs("pillow_heif")
    data = saved(picture(), "HEIF", quality=-1, chroma=444)
    image, size = decode(data[:8] + brand + data[12:], "a.jpg", MEGAPIXEL)
    assert (image.format, size) == ("HEIF", (64, 48))
    assert np.abs(np.asarray(image, int) - np.asarray(picture(), int)).max() <= 2
    assert failure(data, max_pixels=64 * 48 - 1)[0] == "too_large"
    for kept in (len(data) // 2, len(data) - 5, len(HEIC)):
        assert failure(data[:kept])[0] == "decode_failed"


def test_a_rotation_by_tiff_or_by_heics_container_is_applied_one_by_exif_is_not() -> None:
    turned = picture()
    turned.getexif()[0x112] = 6
    assert decode(saved(turned, "JPEG", exif=turned.getexif()), "a", MEGAPIXEL)[1] == (64, 48)
    assert decode(saved(picture(), "TIFF", tiffinfo={0x112: 6}), "a", MEGAPIXEL)[1] == (48, 64)
    needs("pillow_heif")
    assert decode(saved(turned, "HEIF"), "a", MEGAPIXEL)[1] == (48, 64)


def test_a_heic_file_with_another_codec_is_unsupported() -> None:
    needs("pillow_heif")
    data = saved(picture(), "AVIF").replace(b"avif", b"heic", 2)
    assert failure(data)[0] == "unsupported_format"


def test_a_jpeg_xl_picture_is_read() -> None:
    needs("pillow_jxl")
    data = saved(picture(), "JXL", lossless=True)
    image, size = decode(data, "a.jpg", MEGAPIXEL)
    assert (image.format, size) == ("JXL", (64, 48))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
    code, message = failure(data[:-20])
    assert code == "decode_failed"
    assert message == "'a.jpg' is damaged: libjxl cannot decode it"


def test_a_jpeg_xl_picture_made_from_a_jpeg_file_has_its_pixels() -> None:
    plugin = needs("pillow_jxl")
    jpeg = saved(picture(), "JPEG")
    encoder = plugin.Encoder(
        mode="RGB",
        lossless=True,
        quality=100.0,
        decoding_speed=0,
        effort=1,
        use_container=True,
        use_original_profile=False,
        num_threads=0,
    )
    image, _ = decode(bytes(encoder(jpeg, 64, 48, jpeg_encode=True)), "a.jxl", MEGAPIXEL)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode(jpeg, "a", MEGAPIXEL)[0]))


@pytest.mark.parametrize("in_boxes", [False, True])
@pytest.mark.parametrize(
    "size", [(64, 48), (64, 64), (8, 256), (1, 1), (300, 7), (1920, 1080), (513, 9000), (40, 33)]
)
def test_the_size_of_a_jpeg_xl_picture_is_known_before_it_is_decoded(
    size: tuple[int, int], in_boxes: bool
) -> None:
    needs("pillow_jxl")
    image = Image.new("L", size)
    data = saved(image, "JXL", use_container=in_boxes, effort=1)
    assert jxl_size(data) == size
    # The check comes first: the file is cut within its header.
    start = data.index(b"\xff\x0a")
    assert failure(data[: start + 12], max_pixels=size[0] * size[1] - 1)[0] == "too_large"


def test_other_bytes_have_no_size_of_jpeg_xl() -> None:
    for data in (b"", b"\xff", b"\xff\xd8\xff", JXL_IN_BOXES, JXL_IN_BOXES + bytes(8)):
        assert jxl_size(data) is None
    assert jxl_size(JXL) == (64, 48)


def float_tiff() -> bytes:
    """An RGB picture of one pixel in float32."""
    tags = [
        *((256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 1, 200), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 12), (339, 3, 1, 3)),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + struct.pack("<3f", 0.1, 0.5, 0.9)


def test_a_sound_file_of_an_unknown_kind_is_unsupported_not_damaged() -> None:
    jpeg = bytearray(saved(picture(), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12  # bits of a sample
    for data, reason in ((float_tiff(), "unknown pixel mode"), (jpeg, "12-bit layers")):
        code, message = failure(bytes(data))
        assert code == "unsupported_format"
        assert reason in message


def test_a_png_with_more_than_a_mebibyte_of_metadata_is_sound() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("notes", "x" * (2 << 20), zip=True)
    data = saved(picture(), "PNG", pnginfo=text, icc_profile=bytes(2 << 20))
    image, _ = decode(data, "a.png", MEGAPIXEL)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))

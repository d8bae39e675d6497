"""Pictures that a person sees: also those that a dataset refuses, and those that would be flat."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfleet.retrieval.pages.thumbnails import thumbnail
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.picture_files import PictureFiles

FILES = PictureFiles(ImageLimits())


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_more_than_8_bits_is_seen_with_its_whole_range(
    tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "ramp.tif"
    ramp = np.linspace(1_000, 30_000, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).convert("I").convert(mode).save(path)
    small = thumbnail(FILES.small(str(path), 320), 320)
    seen = np.asarray(Image.open(io.BytesIO(small.data)).convert("L"))
    assert (seen[:3].max() <= 20, seen[-3:].min() >= 235) == (True, True)


def test_a_jpeg_file_that_lacks_its_end_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.new("RGB", (64, 48), "teal").save(path)
    path.write_bytes(path.read_bytes()[:-2])
    assert FILES.small(str(path), 16).getpixel((0, 0)) == pytest.approx((0, 128, 128), abs=3)


def test_no_more_of_a_jpeg_file_is_decoded_than_a_thumbnail_needs(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1600, 1200)).save(path)
    assert FILES.small(str(path), 320).size == (800, 600)

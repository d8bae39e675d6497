"""An upload is decoded as a worker decodes it, and a hostile one costs an answer, no server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipfleet
from clipfleet.error_codes import DECODE_FAILED, DECODE_TIMEOUT, DECODER_CRASHED
from clipfleet.errors import ItemError
from clipfleet.settings import load_settings
from clipfleet.workers.uploads import UploadDecoder
from tests.faults.pictures import picture_bytes, poisoned_environment

MODEL = Path(__file__).parents[2] / "examples/demo/model/demo.img.fp32.onnx"
SIDE = 16


def test_a_hostile_upload_is_an_error_and_the_next_one_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in poisoned_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    with UploadDecoder(load_settings(decode_timeout_s=2.0), lambda: SIDE) as uploads:
        for poison, code in (("ABORT", DECODER_CRASHED), ("HANG", DECODE_TIMEOUT)):
            with pytest.raises(ItemError, match="the picture") as caught:
                uploads.decoded(picture_bytes(0, poison), "the picture")
            assert caught.value.code == code
        with pytest.raises(ItemError, match="the picture") as caught:
            uploads.decoded(picture_bytes(0)[:60], "the picture")
        assert caught.value.code == DECODE_FAILED
        assert uploads.decoded(picture_bytes(0), "the picture").size == (SIDE, SIDE)


def test_an_upload_has_the_vector_of_its_file(tmp_path: Path) -> None:
    settings = load_settings()
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    path = tmp_path / "a.png"
    with (
        clipfleet.load_model(MODEL, settings=settings) as model,
        UploadDecoder(settings, lambda: model.image_side) as uploads,
    ):
        for mode in ("RGB", "L", "P", "RGBA"):
            Image.fromarray(pixels).convert(mode).save(path)
            upload = uploads.decoded(path.read_bytes(), "the picture")
            np.testing.assert_array_equal(
                model.encode_images([upload]), model.encode_images([path])
            )

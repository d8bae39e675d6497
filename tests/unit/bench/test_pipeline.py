"""The pipeline's measurement: its steps, and what they embed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.captions import captions
from bench.gpu.pipeline.__main__ import parsed
from bench.gpu.pipeline.figures import (
    CAPTIONS,
)
from bench.gpu.pipeline.photos import given, photo, size_of
from bench.gpu.pipeline.rates import items_of
from bench.gpu.pipeline.sources import Source, photo_source
from bench.gpu.pipeline.steps import Steps, failure_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            subprocess.CalledProcessError(2, "embed", stderr="a line\nno model\n"),
            "exit code 2: no model",
        ),
        (subprocess.TimeoutExpired("embed", 1), "not done after 240 s"),
        (FileNotFoundError("no python3.12"), "no python3.12"),
    ],
)
def test_a_failed_step_has_a_reason(error: Exception, reason: str) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    assert failure_of(["embed"], {}, run) == reason


def test_the_steps_that_tell_most_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    line = "out --engine b32.trt --engine b1.trt --text-engine txt.trt --decode-gpu --gpus"
    args = parsed([*line.split(), "--checkpoint", "m.pt", "--model-arch", "M", "--workers", "2"])
    photos = [Source(name=name, path=tmp_path / name, count=9) for name in ("500x375", "9x9")]
    captions = Source(name=CAPTIONS, path=tmp_path / "captions", count=9)
    assert [step.name for step in Steps(args, photos, captions)] == [
        "alone b32.trt 500x375, 9x9",
        "alone b1.trt 500x375",
        "decoders b32.trt 500x375",
        "decoders b32.trt 9x9",
        "embed b32.trt 500x375",
        "embed b1.trt 500x375",
        "dataloader",
        "alone txt.trt captions",
        "embed txt.trt captions",
        "embed b32.trt 9x9",
        "embed b32.trt 500x375 --decode gpu",
        "embed b32.trt 9x9 --decode gpu",
        "embed b32.trt 500x375 --gpus all",
        "embed txt.trt captions --gpus all",
        "dataloader --compile",
        "original",
        "embed b32.trt 500x375 --workers 2",
        "embed b1.trt 500x375 --workers 2",
    ]


def test_captions_are_many_different_words_and_the_same_each_time() -> None:
    found = list(captions(400))
    assert found == list(captions(400))
    assert len({word for text in found[1::2] for word in text.split()}) > 1000
    assert all(text.isascii() for text in found[1::2])
    assert not any(text.isascii() for text in found[::2])


def test_ids_share_the_photos_of_a_size(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 6)).save(pictures / "a.png")
    folder = tmp_path / "out"
    (folder / "photos-4x3-2").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (4, 3)).save(folder / "photos-4x3-2" / f"{name}.jpg")
    source = photo_source(folder, "4x3", 5, different=2, pictures=pictures)
    items = items_of(source.path, "img", 10)
    assert [Path(item.uri or "").name for item in items] == ["a.jpg", "b.jpg"] * 2 + ["a.jpg"]
    assert len({item.id for item in items}) == source.count == 5


@pytest.mark.parametrize("size", [(50, 37), (801, 41)])
def test_a_photo_has_its_size_and_is_the_same_each_time(size: tuple[int, int]) -> None:
    pictures = [
        Image.radial_gradient("L").convert("RGB"),
        Image.linear_gradient("L").convert("RGB"),
    ]
    first = photo(3, size, pictures)
    assert first.size == size
    assert first.tobytes() == photo(3, size, pictures).tobytes()
    assert first.tobytes() != photo(4, size, pictures).tobytes()


def test_pictures_are_the_images_of_a_folder(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").touch()
    [picture] = given(tmp_path)
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit, match="no JPEG or PNG file in"):
        given(empty)


def test_a_size_is_a_width_and_a_height() -> None:
    assert size_of("1920x1080") == (1920, 1080)

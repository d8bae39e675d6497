"""The demonstration's pictures: the same for everyone, all different, and cleanly split."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfleet.architectures import load_architecture
from clipfleet.workers.text.tokenizer import Tokenizer
from examples.demo.scenes import (
    SPLITS,
    Group,
    Picture,
    Scene,
    captions,
    close_pictures,
    jpeg,
    pictures,
    write,
)


def test_the_same_seed_gives_the_same_pictures() -> None:
    first, second = (pictures(count=20, seed=3) for _ in range(2))
    assert first == second
    assert [jpeg(p) for p in first] == [jpeg(p) for p in second]


def test_the_captions_of_a_seed_are_those_of_the_trained_model() -> None:
    texts = "\n".join(p.chinese + p.english for p in pictures(count=1000, seed=1))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "a109496b34801f3b"


def test_another_seed_gives_other_pictures() -> None:
    first, second = ({p.chinese for p in pictures(count=50, seed=seed)} for seed in (3, 4))
    assert not first & second


def test_a_larger_count_only_adds_pictures() -> None:
    assert pictures(count=50, seed=3)[:20] == pictures(count=20, seed=3)


@pytest.mark.parametrize("language", ["chinese", "english"])
def test_captions_are_pairwise_different(language: str) -> None:
    assert len({getattr(p, language) for p in pictures(count=5000, seed=1)}) == 5000


def test_no_scene_is_in_both_splits_whatever_the_seed() -> None:
    held_out = {p.scene for seed in (1, 2) for p in pictures(count=2000, seed=seed)}
    train = {p.scene for p in pictures(count=20000, seed=1, split="train")}
    assert not held_out & train
    assert {scene.split for scene in held_out} == {SPLITS[0]}
    assert {scene.split for scene in train} == {SPLITS[1]}


def test_near_twins_are_different_scenes_of_one_split() -> None:
    scenes = [p.scene for p in close_pictures(count=500, seed=1)]
    assert len(set(scenes)) == 500
    assert {scene.split for scene in scenes} == {"held-out"}
    pairs = pairwise(scenes)
    assert sum(a.background == b.background for a, b in pairs) > 300  # by chance: one in six


def test_both_captions_name_everything_in_the_picture() -> None:
    picture = _of(_scene())
    assert "白色背景" in picture.chinese or "背景是白色" in picture.chinese
    for part in ("三个小的红色五角星", "左上角"):
        assert part in picture.chinese
    for part in ("three small red stars at the top left", "on a white background"):
        assert part in picture.english.lower()


def test_every_caption_fits_the_context_whole() -> None:
    chosen = pictures(count=2000, seed=1)
    length = load_architecture("demo").context_length
    ids = Tokenizer().encode([text for p in chosen for text in (p.chinese, p.english)], length + 1)
    assert not ids[:, -1].any()


def test_a_picture_shows_what_its_caption_says() -> None:
    """One large red square in the centre of white: red there, white in the corners."""
    square = Group(place=4, count=0, size=0, colour=0, shape=2)
    pixels = _pixels(_of(Scene(background=0, groups=(square,))))
    height, width, _ = pixels.shape
    red, green, blue = pixels[height // 2, width // 2]
    assert red > 150
    assert max(green, blue) < 100
    corners = pixels[[3, 3, -4, -4], [3, -4, 3, -4]]
    assert corners.min() > 180


def test_two_pictures_of_one_scene_differ_in_shade_place_and_noise() -> None:
    picture = _of(_scene())
    assert jpeg(picture) != jpeg(replace(picture, seed="another"))


def test_the_files_are_jpegs_and_a_line_for_each_caption(tmp_path: Path) -> None:
    chosen = pictures(count=3, seed=3)
    write(tmp_path, chosen, processes=1)
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert lines == [line for p in chosen for line in captions(p)]
    assert [line["id"] for line in lines[:2]] == ["000000.zh", "000000.en"]
    for line in lines:
        with Image.open(tmp_path / line["image"]) as image:
            assert image.format == "JPEG"
            assert 120 <= min(image.size) <= max(image.size) <= 160


def _scene() -> Scene:
    stars = Group(place=0, count=2, size=1, colour=0, shape=5)
    return Scene(background=0, groups=(stars,))


def _of(scene: Scene) -> Picture:
    """The picture of a scene, as the generator makes it."""
    from examples.demo.scenes import _picture

    return _picture(scene, seed="test", id="test")


def _pixels(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(jpeg(picture))) as image:
        return np.asarray(image)

"""`clipfleet.load_model`: vectors of images and texts in this process, and their similarity."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipfleet
from clipfleet.error_codes import (
    DECODE_FAILED,
    EMPTY_TEXT,
    MISSING,
    NOT_8_BIT,
    UNSUPPORTED_FORMAT,
)
from clipfleet.model_card import card_path, load_card, write_card
from clipfleet.settings import Settings
from clipfleet.workers.engines.fake import write_fake_engine

DEMO = Path(__file__).parents[2] / "examples/demo/model"
SETTINGS = Settings()
DIM = 16
MORE_THAN_A_CHUNK = 33


def pixels(seed: int, *, side: int = 12) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)


def assert_unit(vectors: np.ndarray[Any, Any], count: int, dim: int = DIM) -> None:
    assert (vectors.shape, vectors.dtype) == ((count, dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[clipfleet.Model]:
    """A model with both towers, which gives equal vectors to equal inputs only."""
    write_fake_engine(tmp_path, "txt")
    with clipfleet.load_model(write_fake_engine(tmp_path, "img"), settings=SETTINGS) as model:
        yield model


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.png" for n in range(MORE_THAN_A_CHUNK)]
    for n, path in enumerate(paths):
        Image.fromarray(pixels(n)).save(path)
    return paths


def test_a_path_an_image_and_an_array_have_one_vector(
    model: clipfleet.Model, photos: list[Path]
) -> None:
    vectors = model.encode_images(photos)
    assert_unit(vectors, MORE_THAN_A_CHUNK)
    assert len(np.unique(vectors, axis=0)) == MORE_THAN_A_CHUNK
    arrays = [pixels(n) for n in range(MORE_THAN_A_CHUNK)]
    for same in (
        [str(path) for path in photos],
        [Image.open(path) for path in photos],
        arrays,
        np.stack(arrays),
        (path for path in photos),
    ):
        np.testing.assert_array_equal(model.encode_images(same), vectors)


def test_a_grey_array_is_a_grey_image(model: clipfleet.Model) -> None:
    grey = pixels(1)[:, :, 0]
    expected = model.encode_images([Image.fromarray(grey)])
    np.testing.assert_array_equal(model.encode_images([grey]), expected)
    assert not np.array_equal(model.encode_images([pixels(1)]), expected)


def test_one_image_may_be_in_a_list_many_times(model: clipfleet.Model) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(1, side=800)).save(file, "JPEG")
    image = Image.open(file)  # not decoded yet
    vectors = model.encode_images([image] * 32)
    assert len(np.unique(vectors, axis=0)) == 1


def test_a_relative_path_is_below_the_working_folder(
    model: clipfleet.Model, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos[0].parent)
    np.testing.assert_array_equal(model.encode_images(["0.png"]), model.encode_images(photos[:1]))


def test_texts_are_encoded_in_their_order(model: clipfleet.Model) -> None:
    texts = [f"text {n}" for n in range(MORE_THAN_A_CHUNK)]
    vectors = model.encode_texts(texts)
    assert_unit(vectors, MORE_THAN_A_CHUNK)
    assert len(np.unique(vectors, axis=0)) == MORE_THAN_A_CHUNK
    np.testing.assert_array_equal(model.encode_texts(iter(texts[::-1])), vectors[::-1])
    long = "a " * 100
    np.testing.assert_array_equal(model.encode_texts([long]), model.encode_texts([long + "cat"]))


def test_no_item_gives_no_vector(model: clipfleet.Model) -> None:
    assert model.encode_images([]).shape == (0, DIM)
    assert model.encode_texts([]).shape == (0, DIM)
    assert model.similarity([], ["a"]).shape == (0, 1)


def test_similarity_is_a_softmax_of_the_scaled_cosines(
    model: clipfleet.Model, photos: list[Path]
) -> None:
    texts = ["a cat", "a dog", "a bird"]
    found = model.similarity(photos, texts)
    assert found.shape == (MORE_THAN_A_CHUNK, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    image_vectors, text_vectors = model.encode_images(photos), model.encode_texts(texts)
    logits = np.exp(4.6052) * image_vectors.astype(np.float64) @ text_vectors.T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for images in (photos, image_vectors, 7 * image_vectors):  # vectors are normalised
        for given in (texts, text_vectors, text_vectors.astype(np.float64)):
            np.testing.assert_allclose(model.similarity(images, given), found, atol=1e-5)


def test_similarity_of_any_scale_is_finite(tmp_path: Path) -> None:
    for tower in ("img", "txt"):
        path = write_fake_engine(tmp_path, tower)
        write_card(replace(load_card(path)[0], logit_scale=20.0), path)
    with clipfleet.load_model(path, settings=SETTINGS) as model:
        found = model.similarity([pixels(1), pixels(2)], ["a", "b"])
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_either_tower_leads_to_the_other(tmp_path: Path) -> None:
    image_card, text_card = (write_fake_engine(tmp_path, tower) for tower in ("img", "txt"))
    for path in (image_card, text_card, tmp_path / "fake.img", tmp_path / "fake.txt"):
        with clipfleet.load_model(str(path), settings=SETTINGS) as model:
            assert model.card == load_card(path)[0]
            assert_unit(model.encode_images([pixels(0)]), 1)
            assert_unit(model.encode_texts(["a"]), 1)


def test_pictures_that_the_original_flattens_follow_the_settings(tmp_path: Path) -> None:
    rising = np.arange(144, dtype=np.uint16).reshape(12, 12) * 400 + 1000
    path = tmp_path / "deep.png"
    Image.fromarray(rising).save(path)
    card = write_fake_engine(tmp_path, "img")
    for image in (path, Image.open(path)):
        with (
            clipfleet.load_model(card, settings=SETTINGS) as model,
            pytest.raises(
                clipfleet.ItemError, match=r"images\[1\]: .*--sixteen-bit scale"
            ) as raised,
        ):
            model.encode_images([pixels(0), image])
        assert raised.value.code == NOT_8_BIT
    with clipfleet.load_model(card, settings=Settings(sixteen_bit="scale")) as model:
        one, same, other = model.encode_images([path, Image.open(path), Image.fromarray(rising.T)])
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_folder_leads_to_both_towers(tmp_path: Path) -> None:
    text_card = write_fake_engine(tmp_path, "txt")
    with clipfleet.load_model(tmp_path, settings=SETTINGS) as model:
        assert model.card.tower == "txt", "there is no other"
        assert_unit(model.encode_texts(["a"]), 1)
        with pytest.raises(clipfleet.CardError, match=r"no engine of the img tower: .* fake\.txt"):
            model.encode_images([pixels(0)])
    image_card = write_fake_engine(tmp_path, "img")
    with clipfleet.load_model(str(tmp_path), settings=SETTINGS) as model:
        assert model.card == load_card(image_card)[0]
        assert_unit(model.encode_images([pixels(0)]), 1)
        assert_unit(model.encode_texts(["a"]), 1)
    write_card(replace(load_card(text_card)[0], checkpoint_sha256="f" * 64), text_card)
    with (
        clipfleet.load_model(tmp_path, settings=SETTINGS) as model,
        pytest.raises(clipfleet.CardError, match="convert both towers from one checkpoint"),
    ):
        model.encode_texts(["a"])


def test_only_the_tower_that_is_used_has_to_be_there(tmp_path: Path) -> None:
    with clipfleet.load_model(write_fake_engine(tmp_path, "img"), settings=SETTINGS) as model:
        assert_unit(model.encode_images([pixels(0)]), 1)
        with pytest.raises(
            clipfleet.CardError,
            match=r"no txt tower beside .*fake\.img: expected .*fake\.txt .*clipfleet convert",
        ):
            model.encode_texts(["a"])
        with pytest.raises(clipfleet.CardError, match="no txt tower beside"):
            model.similarity([pixels(0)], ["a"])


def test_a_name_without_a_tower_leads_to_no_other(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, "img")
    engine = tmp_path / "engine.onnx"
    (tmp_path / "fake.img").rename(engine)
    write_card(replace(load_card_of(path), engine=engine.name), card_path(engine))
    with clipfleet.load_model(engine, settings=SETTINGS) as model:
        assert_unit(model.encode_images([pixels(0)]), 1)
        with pytest.raises(clipfleet.CardError, match=r"engine\.onnx does not say its tower"):
            model.encode_texts(["a"])


def load_card_of(path: Path) -> clipfleet.ModelCard:
    from clipfleet.model_card import parse_card

    return parse_card(path.read_text(), origin=str(path))


@pytest.mark.parametrize("change", [{"checkpoint_sha256": "f" * 64}, {"tower": "img"}])
def test_the_tower_of_another_checkpoint_is_refused(tmp_path: Path, change: Any) -> None:
    text_card = write_fake_engine(tmp_path, "txt")
    write_card(replace(load_card(text_card)[0], **change), text_card)
    with (
        clipfleet.load_model(write_fake_engine(tmp_path, "img"), settings=SETTINGS) as model,
        pytest.raises(clipfleet.CardError, match="convert both towers from one checkpoint"),
    ):
        model.encode_texts(["a"])


def test_no_card_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(clipfleet.CardError, match="no model card at"):
        clipfleet.load_model(tmp_path / "absent.img.onnx", settings=SETTINGS)


def test_a_damaged_engine_is_an_error_when_it_is_used(tmp_path: Path) -> None:
    model = clipfleet.load_model(write_fake_engine(tmp_path, "img"), settings=SETTINGS)
    (tmp_path / "fake.img").write_text("{}")
    with pytest.raises(clipfleet.EngineError, match=r"fake\.img"):
        model.encode_images([pixels(0)])


def test_engines_are_freed_and_loaded_again(model: clipfleet.Model) -> None:
    before = model.encode_texts(["a"])
    model.close()
    assert not model._engines
    np.testing.assert_array_equal(model.encode_texts(["a"]), before)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, MISSING), (b"no picture", UNSUPPORTED_FORMAT), (b"\x89PNG\r\n\x1a\n", DECODE_FAILED)],
)
def test_an_unreadable_image_is_named(
    model: clipfleet.Model, photos: list[Path], content: bytes | None, code: str
) -> None:
    bad = photos[0].with_name("bad.png")
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(clipfleet.ItemError, match=r"^images\[33\]: .*/bad\.png") as caught:
        model.encode_images([*photos, bad])
    assert caught.value.code == code


def test_a_pillow_image_that_cannot_be_decoded_is_named(model: clipfleet.Model) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(1, side=100)).save(file, "JPEG")
    cut = Image.open(io.BytesIO(file.getvalue()[:-500]))
    with pytest.raises(clipfleet.ItemError, match=r"images\[1\]: it cannot be decoded") as caught:
        model.encode_images([pixels(0), cut])
    assert caught.value.code == DECODE_FAILED


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \(3, 4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), r"uint8 \(4, 4, 1\)"),
        (np.zeros(4, np.uint8), r"uint8 \(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"uint8 \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
    ],
)
def test_an_array_of_another_form_is_refused(model: clipfleet.Model, array: Any, told: str) -> None:
    with pytest.raises(
        clipfleet.UsageError, match=rf"images\[1\] is an array of {told}: expected uint8 \(H, W, 3"
    ):
        model.encode_images([pixels(0), array])


def test_an_image_without_pixels_is_refused(model: clipfleet.Model) -> None:
    with pytest.raises(clipfleet.UsageError, match=r"images\[1\] has no pixels: .* \(0, 5\)"):
        model.encode_images([pixels(0), Image.new("RGB", (0, 5))])


@pytest.mark.parametrize("image", [1, None, b"bytes", ["list"]])
def test_what_is_no_image_is_refused(model: clipfleet.Model, image: Any) -> None:
    told = rf"images\[1\] is of type {type(image).__name__}: expected a path"
    with pytest.raises(clipfleet.UsageError, match=told):
        model.encode_images([pixels(0), image])


def test_a_url_is_refused_with_the_way_out(model: clipfleet.Model) -> None:
    with pytest.raises(clipfleet.UsageError, match=r"images\[0\] is a URL, https://.*--url-host"):
        model.encode_images(["https://example.com/a.jpg"])


@pytest.mark.parametrize(
    "image", ["a.png", Path("a.png"), Image.new("RGB", (2, 2)), pixels(0), pixels(0)[:, :, 0]]
)
def test_an_image_that_is_not_in_a_list_is_refused(model: clipfleet.Model, image: Any) -> None:
    for encode in (model.encode_images, lambda given: model.similarity(given, ["a"])):
        with pytest.raises(clipfleet.UsageError, match=r"takes a list: .* \[image\]"):
            encode(image)


def test_a_text_that_is_not_in_a_list_is_refused(model: clipfleet.Model) -> None:
    with pytest.raises(clipfleet.UsageError, match=r"takes a list: .* \[text\]"):
        model.encode_texts("a cat")
    with pytest.raises(clipfleet.UsageError, match=r"takes a list: .* \[text\]"):
        model.similarity([pixels(0)], "a cat")


@pytest.mark.parametrize("text", ["", "   ", "\n\u200b"])
def test_a_text_without_a_word_is_named(model: clipfleet.Model, text: str) -> None:
    with pytest.raises(clipfleet.ItemError, match=r"texts\[1\] holds no word") as caught:
        model.encode_texts(["a", text])
    assert caught.value.code == EMPTY_TEXT


@pytest.mark.parametrize("text", [None, 3, b"a"])
def test_what_is_no_text_is_refused(model: clipfleet.Model, text: Any) -> None:
    told = rf"texts\[1\] is of type {type(text).__name__}: expected a string"
    with pytest.raises(clipfleet.UsageError, match=told):
        model.encode_texts(["a", text])


def test_similarity_without_a_text_is_refused(model: clipfleet.Model) -> None:
    with pytest.raises(clipfleet.UsageError, match="at least one text"):
        model.similarity([pixels(0)], [])


def test_vectors_of_another_width_are_refused(model: clipfleet.Model) -> None:
    wide = np.ones((2, DIM + 1), np.float32)
    for images, texts in ((wide, ["a"]), ([pixels(0)], wide)):
        with pytest.raises(clipfleet.UsageError, match=r"shape \(2, 17\).* \(n, 16\)"):
            model.similarity(images, texts)


def test_a_vector_without_direction_is_named(
    model: clipfleet.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.encode_texts(["a"])
    features = np.ones((3, DIM), np.float32)
    features[2] = 0
    engine = type(model._engines["txt"])
    monkeypatch.setattr(engine, "__call__", lambda *_: features)
    with pytest.raises(clipfleet.ItemError, match=r"texts\[2\]: .* no direction"):
        model.encode_texts(["a", "b", "c"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_demos_model_tells_shapes_apart(precision: str) -> None:
    red, blue = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    red.paste((220, 20, 20), (16, 16, 48, 48))
    blue.paste((20, 20, 220), (16, 16, 48, 48))
    card = DEMO / f"demo.txt.{precision}.onnx"
    with clipfleet.load_model(card, settings=SETTINGS) as model:
        texts = [
            f"a big {colour} square in the middle on a white background"
            for colour in ("red", "blue")
        ]
        found = model.similarity([red, blue], texts)
        assert_unit(model.encode_images([red, blue]), 2, model.card.dim)
    assert found.argmax(axis=1).tolist() == [0, 1]
    assert found.max(axis=1).min() > 0.9


def test_given_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fake_engine(tmp_path, "img")
    small = Settings(max_image_pixels=10)
    monkeypatch.setenv("CLIPFLEET_MAX_IMAGE_PIXELS", "many")
    photo = tmp_path / "a.png"
    Image.fromarray(pixels(0)).save(photo)
    with clipfleet.load_model(path, settings=SETTINGS) as model:
        assert_unit(model.encode_images([photo]), 1)
    with (
        clipfleet.load_model(path, settings=small) as model,
        pytest.raises(clipfleet.ItemError, match="more than the 10 allowed"),
    ):
        model.encode_images([photo])
    with pytest.raises(clipfleet.SettingsError, match="max_image_pixels"):
        clipfleet.load_model(path)

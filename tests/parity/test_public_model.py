"""`clipfleet.load_model` beside the original, with the demo's checkpoint in both."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import clipfleet
from clipfleet.architectures import Architecture, load_architecture
from clipfleet.convert.checkpoints.load import load_checkpoint
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.workers.embedder import Embedder
from examples.demo.scenes import captions, jpeg, pictures
from tests.original import original_utils
from tests.parity.test_parity_model import original_of

DEMO = Path(__file__).parents[2] / "examples/demo/model"
COUNT = 70  # images: more than two chunks
TOLERANCE = 1e-4  # of a probability
SCENES = pictures(count=COUNT, seed=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for scene in SCENES:
        (folder / f"{scene.id}.jpg").write_bytes(jpeg(scene))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [caption["text"] for scene in SCENES[:10] for caption in captions(scene)]


@pytest.fixture(scope="module")
def model() -> Iterator[clipfleet.Model]:
    with clipfleet.load_model(DEMO / "demo.img.fp32.onnx", settings=Settings()) as model:
        yield model


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return load_architecture("demo")


@pytest.fixture(scope="module")
def original(architecture: Architecture) -> Any:
    """`cn_clip`'s own model, with the weights that the demo's engines were made from."""
    found = original_of(original_utils().CLIP, architecture)
    found.load_state_dict(load_checkpoint(DEMO / "demo.pt", architecture).state_dict)
    return found


def original_similarity(
    original: Any, photos: Sequence[Path], texts: Sequence[str], resolution: int
) -> NDArray[np.float32]:
    """Return what the original's own functions make of files and texts, as its guide calls them."""
    utils = original_utils()
    transform = utils.image_transform(resolution)
    pixels = torch.stack([transform(Image.open(path)) for path in photos])
    with torch.inference_mode():
        logits_per_image, _ = original.get_similarity(pixels, utils.tokenize(list(texts)))
        probabilities: NDArray[np.float32] = logits_per_image.softmax(dim=-1).numpy()
    return probabilities


def test_similarity_equals_the_originals(
    model: clipfleet.Model,
    original: Any,
    architecture: Architecture,
    photos: list[Path],
    texts: list[str],
) -> None:
    expected = original_similarity(original, photos, texts, architecture.resolution)
    found = model.similarity(photos, texts)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.abs(found - expected).max() <= TOLERANCE
    # It would be so whatever the model does, if all texts fitted every image alike.
    assert expected.max(axis=1).mean() > 0.3
    assert np.ptp(expected, axis=0).min() > 100 * TOLERANCE


def test_similarity_of_a_datasets_vectors_is_near_to_that(
    model: clipfleet.Model, photos: list[Path], texts: list[str]
) -> None:
    """float16 moves a cosine by some 1e-5, which the scale makes 1e-3 of a logit."""
    stored = model.encode_images(photos).astype(np.float16)
    found = model.similarity(stored, model.encode_texts(texts))
    assert np.abs(found - model.similarity(photos, texts)).max() <= 1e-2


@pytest.mark.parametrize("size", [1, 3, 32, COUNT])
def test_an_image_has_one_vector_whatever_it_is_encoded_with(
    model: clipfleet.Model, photos: list[Path], size: int
) -> None:
    alone = [model.encode_images(photos[n : n + size]) for n in range(0, COUNT, size)]
    found = np.concatenate(alone)
    # To the bit on the CPUs that were tried; another matrix product may add in another order.
    np.testing.assert_allclose(found, model.encode_images(photos), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_the_vectors_are_a_workers_to_the_bit(
    model: clipfleet.Model, photos: list[Path], texts: list[str], tower: str
) -> None:
    items = (
        [Item(id=path.name, uri=str(path)) for path in photos]
        if tower == "img"
        else [Item(id=str(n), text=text) for n, text in enumerate(texts)]
    )
    # Two threads: as many items at once as in `Model`, whatever the machine.
    settings = Settings(model=str(DEMO / f"demo.{tower}.fp32.onnx"), decoders=2)
    with Embedder.from_settings(settings) as embedder:
        written = embedder.embed(items).vectors
    found = model.encode_images(photos) if tower == "img" else model.encode_texts(texts)
    assert found.tobytes() == written.tobytes()


def test_a_pillow_image_and_an_array_have_the_files_vector(
    model: clipfleet.Model, photos: list[Path]
) -> None:
    expected = model.encode_images(photos[:5])
    images = [Image.open(io.BytesIO(path.read_bytes())) for path in photos[:5]]
    np.testing.assert_array_equal(model.encode_images(images), expected)
    arrays = [np.asarray(image) for image in images]
    np.testing.assert_array_equal(model.encode_images(arrays), expected)

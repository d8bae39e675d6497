"""A model in this process: images and texts to vectors, and how similar these are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.error_codes import EMPTY_TEXT, NON_FINITE
from clipfleet.errors import CardError, ItemError, UsageError
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import Settings, cores, load_settings
from clipfleet.workers.engines.base import Engine, l2_normalise
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.images.decode import ImageLimits, read_image
from clipfleet.workers.images.preprocess import preprocess_into
from clipfleet.workers.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

Vectors = NDArray[np.float32]
Picture = str | Path | Image.Image | NDArray[np.uint8]

_CHUNK = 32  # items that are made ready at once
_OTHER: dict[Tower, Tower] = {"img": "txt", "txt": "img"}


def load_model(card: str | Path, *, settings: Settings | None = None) -> Model:
    """Return the model of a card, or of the engine beside it; both towers where both are there.

    The other tower's engine is found by its name: `vit-b-16.img.fp32.onnx` and
    `vit-b-16.txt.fp32.onnx`. An engine is loaded when it is first used.

    Raises:
        CardError: The card or its engine is missing or damaged.
    """
    return Model(card, settings=settings or load_settings())


class Model:
    """The towers of one checkpoint in this process; a context manager.

    `card` is that of the tower that was named.
    """

    def __init__(self, card: str | Path, *, settings: Settings) -> None:
        self.card, engine = load_card(card)
        self._paths: dict[Tower, Path] = {self.card.tower: engine}
        other = _OTHER[self.card.tower]
        self._paths[other] = engine.with_name(
            engine.name.replace(f".{self.card.tower}.", f".{other}.")
        )
        self._settings = settings
        self._engines: dict[Tower, Engine] = {}
        self._tokenizer: Tokenizer | None = None

    def encode_images(self, images: Sequence[Picture]) -> Vectors:
        """Return the vectors of n images, float32 (n, D), with L2 norms of 1.

        An image is a path, a Pillow image, or a uint8 array (H, W, 3) in RGB or (H, W) in grey.

        Raises:
            ItemError: An image cannot be read; the message names it.
            UsageError: An array has another shape or dtype.
            CardError: The image tower is not there.
            EngineError: The engine does not load, or fails.
        """
        if isinstance(images, str | Path | Image.Image):
            raise UsageError("encode_images takes a list: put the image in one")
        limits = ImageLimits.from_settings(self._settings)
        engine = self._engine("img")
        vectors = [np.empty((0, self.card.dim), np.float32)]
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(images), _CHUNK):
                chunk = images[start : start + _CHUNK]
                pixels = engine.empty_inputs(len(chunk))  # float32 (k, 3, S, S)
                list(pool.map(lambda image, out: _fill(image, out, limits), chunk, pixels))
                vectors.append(_normalised(engine(pixels), start, "image"))
        return np.concatenate(vectors)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of n texts, float32 (n, D), with L2 norms of 1.

        Of a text that is longer than the model's context length, the beginning is read.

        Raises:
            ItemError: A text holds no word.
            CardError: The text tower is not there.
            EngineError: The engine does not load, or fails.
        """
        if isinstance(texts, str):
            raise UsageError("encode_texts takes a list: put the text in one")
        engine = self._engine("txt")
        self._tokenizer = self._tokenizer or Tokenizer()
        vectors = [np.empty((0, self.card.dim), np.float32)]
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            ids = engine.empty_inputs(len(chunk))  # int64 or int32 (k, L)
            ids[:] = self._tokenizer.encode(chunk, ids.shape[1])
            for text, row in zip(chunk, ids, strict=True):
                if not row[2]:  # [SEP] follows [CLS] at once, the rest is padding
                    raise ItemError(EMPTY_TEXT, f"the text holds no word: {text[:100]!r}")
            vectors.append(_normalised(engine(ids), start, "text"))
        return np.concatenate(vectors)

    def similarity(
        self, images: Sequence[Picture] | Vectors, texts: Sequence[str] | Vectors
    ) -> Vectors:
        """Return how well each of m texts fits to each of n images, float32 (n, m), rows of sum 1.

        A row is the softmax of exp(logit_scale) x cosine over the texts, as in Chinese-CLIP's
        `get_similarity` and its guide. Both may be given as vectors (n, D) and (m, D) too.

        Raises:
            ItemError, UsageError, CardError, EngineError: As `encode_images` and `encode_texts` do.
        """
        image_vectors = _vectors(images, self.encode_images)
        text_vectors = _vectors(texts, self.encode_texts)
        logits = np.exp(np.float32(self.card.logit_scale)) * (image_vectors @ text_vectors.T)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Vectors = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def close(self) -> None:
        """Free the engines."""
        while self._engines:
            self._engines.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _engine(self, tower: Tower) -> Engine:
        if tower not in self._engines:
            self._check(tower)
            self._engines[tower] = load_engine(self._paths[tower], self._settings)
        return self._engines[tower]

    def _check(self, tower: Tower) -> ModelCard:
        """Return the card of a tower.

        Raises:
            CardError: It is not there, or of another checkpoint.
        """
        path = self._paths[tower]
        if not path.is_file():
            raise CardError(
                f"there is no {tower} tower beside {self._paths[self.card.tower]}: expected {path} "
                "and its card (`clipfleet convert` writes both)"
            )
        card, _ = load_card(path)
        if (card.tower, card.checkpoint_sha256) != (tower, self.card.checkpoint_sha256):
            raise CardError(
                f"{path} is the {card.tower} tower of another checkpoint "
                f"({card.checkpoint_sha256[:12]}, not {self.card.checkpoint_sha256[:12]}): convert "
                "both towers from one checkpoint"
            )
        return card


def _fill(image: Picture, out: NDArray[np.float32], limits: ImageLimits) -> None:
    preprocess_into(_picture(image, limits), out)


def _picture(image: Picture, limits: ImageLimits) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim < 2:
            raise UsageError(
                f"an image array is uint8 (H, W, 3) or (H, W): got {image.dtype} {image.shape}"
            )
        return Image.fromarray(image)
    path = os.path.abspath(image)
    return read_image(Item(id=str(image), uri=path), limits)[0]


def _normalised(features: NDArray[np.float32], start: int, what: str) -> Vectors:
    vectors = l2_normalise(features)  # NaN where there is no direction
    bad = np.flatnonzero(np.isnan(vectors[:, 0]))
    if bad.size:
        raise ItemError(
            NON_FINITE, f"the model's vector of {what} {start + bad[0]} has no direction"
        )
    return vectors


def _vectors(given: Any, encode: Callable[[Any], Vectors]) -> Vectors:
    """Return vectors as float32 (n, D), whether they or what they are made of was given."""
    if isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype.kind == "f":
        return given.astype(np.float32, copy=False)
    return encode(given)

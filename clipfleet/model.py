"""A model in this process: images and texts to vectors, and how similar these are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipfleet.architectures import Tower
from clipfleet.error_codes import DECODE_FAILED, EMPTY_TEXT, NON_FINITE
from clipfleet.errors import CardError, ItemError, UsageError
from clipfleet.images import PictureRules
from clipfleet.items import Item
from clipfleet.model_card import ModelCard, load_card
from clipfleet.settings import Settings, cores, load_settings
from clipfleet.storage.filesystem.members import is_fetched
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.base import Engine, l2_normalise
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.engines.model_folder import find_engine, towers_in
from clipfleet.workers.engines.model_location import locate_model
from clipfleet.workers.images.decode import ImageLimits, read_image
from clipfleet.workers.images.preprocess import preprocess_into
from clipfleet.workers.images.rules import apply_rules
from clipfleet.workers.text.tokenizer import Tokenizer

Vectors = NDArray[np.float32]
Picture = str | Path | Image.Image | NDArray[np.uint8]

_MIN_CHUNK = 32  # items that are made ready at once, as in a worker
_ARGUMENTS: dict[Tower, str] = {"img": "images", "txt": "texts"}
_DECODING = Lock()  # of Pillow images that are not loaded yet: one may be in a list twice


def load_model(card: str | Path, *, settings: Settings | None = None) -> Model:
    """Return the model of a folder, by its path or name, of a card, or of an engine.

    Both towers are there where both are found.

    Of a folder of `clipfleet prepare`, the engines are taken that fit this machine, with TensorRT
    those of the smallest batch, which answer soonest. Beside a card, the other tower's engine is
    found by its name: `vit-b-16.img.fp32.onnx` and `vit-b-16.txt.fp32.onnx`. An engine is loaded
    when it is first used. Without `settings`, those of `clipfleet.load_settings()` are used:
    `provider`, `max_image_pixels` and others.

    Raises:
        CardError: The card or its engine is missing or damaged.
    """
    return Model(card, settings=settings or load_settings())


class Model(Closing):
    """The towers of one checkpoint in this process, from `load_model`; a context manager.

    The vectors are those that a worker with the same engine and settings computes. Where the number
    of items in a batch differs, the last bits may differ. One call at a time.
    """

    card: ModelCard
    """The card of the tower that was named; of a folder, of the image tower where it is there."""

    def __init__(self, card: str | Path, *, settings: Settings) -> None:
        card = locate_model(card, settings)
        self._folder = card if card.is_dir() else None
        if self._folder:
            towers = towers_in(self._folder) or ["img"]  # none: the error names what is there
            card = find_engine(self._folder, towers[0], settings, single=True)
        self.card, engine = load_card(card)
        self._path = engine
        self._settings = settings
        self._engines: dict[Tower, Engine] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def image_side(self) -> int:
        """The side of the square images that the image tower takes, in pixels, or `CardError`."""
        is_own = self.card.tower == "img"
        card = self.card if is_own else load_card(self._other_path("img"))[0]
        return card.input.shape[-1] or 0

    def encode_images(self, images: Iterable[Picture]) -> Vectors:
        """Return the vectors of n images, float32 (n, D), with L2 norms of 1.

        An image is a path, a Pillow image, or a uint8 array (H, W, 3) in RGB or (H, W) in grey.
        An array (n, H, W, 3) is n images.

        Raises:
            ItemError: An image cannot be read; the message names it.
            UsageError: An image is of another type, shape or dtype, or is not in a list.
            CardError: The image tower is not there.
            EngineError: The engine does not load, or fails.
        """
        if isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim != 4
        ):
            raise UsageError("encode_images takes a list: put the image in one, [image]")
        images = list(images)
        fill_image = partial(
            _fill_image,
            limits=ImageLimits.from_settings(self._settings),
            rules=PictureRules.of(self._settings),
        )

        def fill(numbers: range, pixels: NDArray[np.float32]) -> None:
            chunk = (images[n] for n in numbers)
            list(pool.map(fill_image, numbers, chunk, pixels))

        with ThreadPoolExecutor(cores()) as pool:
            return self._encode("img", len(images), fill)

    def encode_texts(self, texts: Iterable[str]) -> Vectors:
        """Return the vectors of n texts, float32 (n, D), with L2 norms of 1.

        Of a text that is longer than the model's context length, the beginning is read.

        Raises:
            ItemError: A text holds no word; the message names it.
            UsageError: A text is not a string, or is not in a list.
            CardError: The text tower is not there.
            EngineError: The engine does not load, or fails.
        """
        if isinstance(texts, str):
            raise UsageError("encode_texts takes a list: put the text in one, [text]")
        texts = list(texts)
        tokenizer = self._tokenizer = self._tokenizer or Tokenizer()

        def fill(numbers: range, ids: NDArray[np.integer[Any]]) -> None:
            for n, row in zip(numbers, ids, strict=True):
                _fill_text(n, texts[n], row, tokenizer)

        return self._encode("txt", len(texts), fill)

    def similarity(
        self, images: Iterable[Picture] | Vectors, texts: Iterable[str] | Vectors
    ) -> Vectors:
        """Return how well each of m texts fits to each of n images, float32 (n, m), rows of sum 1.

        A row is the softmax of exp(logit_scale) x cosine over the texts, as in Chinese-CLIP's
        `get_similarity` and its guide. Both may be given as vectors (n, D) and (m, D) too, such as
        those of a `Dataset`.

        Raises:
            ItemError: An image or a text has no vector; the message names it.
            UsageError: There is no text, vectors have another width than the model's D, or as
                `encode_images` and `encode_texts` raise it.
            CardError: A tower that is needed is not there.
            EngineError: An engine does not load, or fails.
        """
        image_vectors = self._vectors(images, self.encode_images)
        text_vectors = self._vectors(texts, self.encode_texts)
        if not len(text_vectors):
            raise UsageError("similarity is a softmax over the texts: give at least one text")
        logits = np.exp(np.float32(self.card.logit_scale)) * (image_vectors @ text_vectors.T)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Vectors = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def close(self) -> None:
        """Free the engines; a later call loads them again."""
        while self._engines:
            self._engines.popitem()[1].close()

    def _encode(
        self, tower: Tower, count: int, fill: Callable[[range, NDArray[Any]], None]
    ) -> Vectors:
        """Return the vectors of `count` items; `fill` makes the inputs of those with numbers."""
        engine = self._engine(tower)
        size = max(_MIN_CHUNK, engine.max_batch)
        vectors = np.empty((count, self.card.dim), np.float32)
        for start in range(0, count, size):
            numbers = range(start, min(start + size, count))
            inputs = engine.empty_inputs(len(numbers))  # float32 (k, 3, S, S) or int (k, L)
            fill(numbers, inputs)
            vectors[start : start + size] = l2_normalise(engine(inputs))
        bad = np.flatnonzero(np.isnan(vectors[:, 0]))
        if bad.size:
            raise ItemError(
                NON_FINITE, f"{_ARGUMENTS[tower]}[{bad[0]}]: the model's vector has no direction"
            )
        return vectors

    def _vectors(self, given: Any, encode: Callable[[Any], Vectors]) -> Vectors:
        """Return unit vectors (n, D), whether vectors or their items were given.

        Raises:
            UsageError: Vectors of another width were given.
        """
        if not (isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype.kind == "f"):
            return encode(given)
        if given.shape[1] != self.card.dim:
            raise UsageError(
                f"vectors have shape {given.shape}, and this model's have (n, {self.card.dim}): "
                "give vectors of this model"
            )
        return l2_normalise(given)  # a dataset's float16 have norms of nearly 1

    def _engine(self, tower: Tower) -> Engine:
        if tower not in self._engines:
            path = self._path if tower == self.card.tower else self._other_path(tower)
            # The pictures come decoded.
            exact = self._settings.model_copy(update={"decode": "exact"})
            self._engines[tower] = load_engine(path, exact)
        return self._engines[tower]

    def _other_path(self, tower: Tower) -> Path:
        """Return the engine of the tower that was not named.

        Raises:
            CardError: It is not there, or of another checkpoint.
        """
        if self._folder:
            found = find_engine(self._folder, tower, self._settings, single=True)
            return self._same_model(found, tower)
        head, own, tail = f"{self._path.name}.".rpartition(f".{self.card.tower}.")
        if not own:
            raise CardError(
                f"{self._path} does not say its tower, as model.img.fp32.onnx does: nothing leads "
                f"to the {tower} tower (`clipfleet convert` names both)"
            )
        path = self._path.with_name(f"{head}.{tower}.{tail}".removesuffix("."))
        if not path.is_file():
            raise CardError(
                f"there is no {tower} tower beside {self._path}: expected {path} and its card "
                "(`clipfleet convert` writes both)"
            )
        return self._same_model(path, tower)

    def _same_model(self, path: Path, tower: Tower) -> Path:
        card, _ = load_card(path)
        if (card.tower, card.checkpoint_sha256) != (tower, self.card.checkpoint_sha256):
            raise CardError(
                f"{path} is the {card.tower} tower of checkpoint {card.checkpoint_sha256[:12]}, "
                f"expected the {tower} tower of {self.card.checkpoint_sha256[:12]}: convert both "
                "towers from one checkpoint"
            )
        return path


def _fill_image(
    n: int,
    image: Picture,
    out: NDArray[np.float32],
    *,
    limits: ImageLimits,
    rules: PictureRules,
) -> None:
    """Write the pixels of images[n] to float32 (3, S, S)."""
    try:
        preprocess_into(_picture(n, image, limits, rules), out)
    except ItemError as error:
        raise ItemError(error.code, f"images[{n}]: {error}") from error


def _picture(n: int, image: Picture, limits: ImageLimits, rules: PictureRules) -> Image.Image:
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UsageError(f"images[{n}] has no pixels: its size is {image.size}")
        try:
            with _DECODING:
                image.load()
            return apply_rules(image, "the image", rules)[0]
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise ItemError(DECODE_FAILED, f"it cannot be decoded: {error}") from error
    if isinstance(image, np.ndarray):
        shaped = image.ndim >= 2 and image.shape[2:] in ((), (3,))
        if image.dtype != np.uint8 or not shaped or not image.size:
            raise UsageError(
                f"images[{n}] is an array of {image.dtype} {image.shape}: expected uint8 "
                "(H, W, 3) or (H, W)"
            )
        return Image.fromarray(image)
    if not isinstance(image, str | Path):
        raise UsageError(
            f"images[{n}] is of type {type(image).__name__}: expected a path, a Pillow image or "
            "an array"
        )
    uri = str(image)
    if is_fetched(uri):
        raise UsageError(
            f"images[{n}] is a URL, {uri:.200}: fetch it, and give the image (`clipfleet embed` "
            "with --url-host embeds a source of URLs)"
        )
    return read_image(Item(id=uri, uri=os.path.abspath(uri)), limits, rules)[0]


def _fill_text(n: int, text: str, out: NDArray[np.integer[Any]], tokenizer: Tokenizer) -> None:
    """Write the ids of texts[n] to (L,)."""
    if not isinstance(text, str):
        raise UsageError(f"texts[{n}] is of type {type(text).__name__}: expected a string")
    out[:] = tokenizer.encode([text], len(out))[0]
    if not out[2]:  # [SEP] follows [CLS] at once, the rest is padding
        raise ItemError(EMPTY_TEXT, f"texts[{n}] holds no word: {text[:100]!r}")

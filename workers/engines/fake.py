"""An engine for tests: it needs no model, and its features differ for different inputs."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.engine_files import check_files, sha256_of
from clipfleet.errors import EngineError, GpuLostError
from clipfleet.model_card import ModelCard, TensorSpec, card_path, write_card
from clipfleet.workers.engines.base import Array, Engine, checked_inputs

_LOST = "the fake GPU has fallen off the bus"


class FakeEngine(Engine):
    """Features from a hash of each input's bytes: only equal inputs have equal features."""

    def __init__(
        self,
        card: ModelCard,
        *,
        max_batch: int = 32,
        item_s: float = 0.0,
        lost_after_items: int | None = None,
    ) -> None:
        """`item_s` is the time for each item in seconds, so that a test can interrupt it.

        After `lost_after_items` items the engine behaves as if its GPU were lost.
        """
        self.card = card
        self.max_batch = card.batch_size or max_batch
        self._item_s = item_s
        self._lost_after_items = lost_after_items
        self._items = 0

    @classmethod
    def load(cls, card: ModelCard, engine_path: Path, *, max_batch: int = 32) -> FakeEngine:
        """Return the engine that `write_fake_engine` wrote.

        Raises:
            EngineError: The file is not the card's, or no fake engine.
            GpuLostError: The file's `lost_after_items` is 0.
        """
        check_files(card, engine_path)
        try:
            content = json.loads(engine_path.read_text())
            item_s, lost_after_items = float(content["item_s"]), content.get("lost_after_items")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(f'{engine_path} is not {{"item_s": seconds}}: {error}') from error
        if lost_after_items == 0:
            raise GpuLostError(_LOST)
        return cls(card, max_batch=max_batch, item_s=item_s, lost_after_items=lost_after_items)

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        self._items += len(inputs)
        if self._lost_after_items is not None and self._items > self._lost_after_items:
            raise GpuLostError(_LOST)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        for row, given in zip(features, checked_inputs(inputs, self.card), strict=True):
            row[:] = _features(given.tobytes(), self.card.dim)
        if self._item_s:
            time.sleep(self._item_s * len(inputs))
        return features

    def close(self) -> None:
        """Do nothing: the engine has no resources."""


def _features(data: bytes, dim: int) -> NDArray[np.float64]:
    """Return `dim` numbers between -1 and 1."""
    digest = hashlib.blake2b(data).digest()
    numbers = np.frombuffer(hashlib.shake_128(digest).digest(4 * dim), dtype="<i4")
    return numbers / 2.0**31


def fake_card(
    tower: Tower,
    *,
    dim: int = 16,
    resolution: int = 32,
    context_length: int = 52,
    batch_size: int | None = None,
) -> ModelCard:
    """Return the card of a `FakeEngine` without a file."""
    pixels = TensorSpec(
        name="image", shape=(batch_size, 3, resolution, resolution), dtype="float32"
    )
    ids = TensorSpec(name="text", shape=(batch_size, context_length), dtype="int64")
    given = pixels if tower == "img" else ids
    features = f"unnorm_{given.name}_features"
    return ModelCard(
        architecture="fake",
        tower=tower,
        runtime="fake",
        precision="fp32",
        engine=f"fake.{tower}",
        engine_sha256="0" * 64,
        input=given,
        output=TensorSpec(name=features, shape=(batch_size, dim), dtype="float32"),
        logit_scale=4.6052,
        checkpoint_sha256="0" * 64,
        runtime_version="1",
    )


def write_fake_engine(
    folder: Path,
    tower: Tower,
    *,
    dim: int = 16,
    resolution: int = 32,
    item_s: float = 0.0,
    lost_after_items: int | None = None,
) -> Path:
    """Write a fake engine and its card into a folder, and return the card's path."""
    card = fake_card(tower, dim=dim, resolution=resolution)
    engine = folder / card.engine
    lost = {} if lost_after_items is None else {"lost_after_items": lost_after_items}
    engine.write_text(json.dumps({"item_s": item_s, **lost}))
    write_card(replace(card, engine_sha256=sha256_of(engine)), card_path(engine))
    return card_path(engine)

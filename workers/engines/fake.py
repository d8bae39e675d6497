"""An engine for tests: it needs no model, and its features tell its inputs apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.card import ModelCard, TensorSpec, card_path, write_card
from clipfleet.models import Tower
from workers.engines.base import Array, Engine
from workers.engines.inputs import checked_inputs


class FakeEngine(Engine):
    """Features made from a hash of each input's bytes: equal inputs only give equal features."""

    def __init__(self, card: ModelCard, *, max_batch: int = 32) -> None:
        self.card = card
        self.max_batch = card.batch_size or max_batch

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        for row, given in zip(features, checked_inputs(inputs, self.card), strict=True):
            row[:] = _features(given.tobytes(), self.card.dim)
        return features

    def close(self) -> None:
        """Nothing is held."""


def _features(data: bytes, dim: int) -> NDArray[np.float64]:
    digest = hashlib.blake2b(data).digest()
    numbers = np.frombuffer(hashlib.shake_128(digest).digest(4 * dim), dtype="<i4")
    return numbers / 2.0**31  # -1 to 1


def fake_card(
    tower: Tower,
    *,
    dim: int = 16,
    resolution: int = 32,
    context_length: int = 52,
    batch_size: int | None = None,
) -> ModelCard:
    """Return the card of a `FakeEngine`; its `engine_sha256` is that of an empty file."""
    image = TensorSpec(name="image", shape=(batch_size, 3, resolution, resolution), dtype="float32")
    text = TensorSpec(name="text", shape=(batch_size, context_length), dtype="int64")
    kind = "image" if tower == "img" else "text"
    return ModelCard(
        architecture="fake",
        tower=tower,
        runtime="fake",
        precision="fp32",
        engine=f"fake.{tower}",
        engine_sha256=hashlib.sha256(b"").hexdigest(),
        input=image if tower == "img" else text,
        output=TensorSpec(name=f"unnorm_{kind}_features", shape=(batch_size, dim), dtype="float32"),
        logit_scale=4.6052,
        checkpoint_sha256="0" * 64,
        runtime_version="1",
    )


def write_fake_engine(folder: Path, tower: Tower, *, dim: int = 16, resolution: int = 32) -> Path:
    """Write an empty engine file and its card, and return the card's path."""
    card = fake_card(tower, dim=dim, resolution=resolution)
    engine = folder / card.engine
    engine.write_bytes(b"")
    write_card(card, card_path(engine))
    return card_path(engine)

"""The recall gate of `--decode gpu`: both ways of decoding, on a stand-in for the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import clipfleet
from clipfleet.errors import SourceError, UsageError
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.format.results import Embedded
from clipfleet.tasks.local.decode_gate import compare_decoders
from tests.datasets import embedded, images

SAMPLE = images(*(f"{n}.jpg" for n in range(120)))


class TwoDecoders:
    """Embeds pictures with the vectors of one decoder, or of the other if `exact`."""

    def __init__(self, *, difference: float, failing: Sequence[str] = ()) -> None:
        self._difference = difference
        self._failing = failing

    def embed(self, items: Sequence[Item], *, exact: bool = False) -> Embedded:
        found = embedded(items, failing=() if exact else self._failing)
        if exact:
            return found
        noise = np.random.default_rng(1).standard_normal(found.vectors.shape)
        vectors = found.vectors + np.float32(self._difference) * noise.astype(np.float32)
        return replace(found, vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def overlap(min_overlap: float, **decoders: Any) -> float:
    embedder: Any = TwoDecoders(**decoders)
    return compare_decoders(SAMPLE, embedder, min_overlap=min_overlap)


def test_pictures_must_keep_their_neighbours() -> None:
    assert overlap(1.0, difference=0.0) == 1.0
    kept = overlap(0.0, difference=0.02)
    assert 0.8 < kept < 1
    with pytest.raises(UsageError, match=f"keep {kept:.4f} of their 10 nearest neighbours"):
        overlap(0.999, difference=0.02)


def test_a_picture_without_a_vector_is_named() -> None:
    with pytest.raises(SourceError, match=r"1 images .* the first is '7\.jpg' \(empty_file"):
        overlap(0.5, difference=0.0, failing=["7.jpg"])


def test_exact_pictures_need_no_gate() -> None:
    with pytest.raises(UsageError, match="a gate's sample is for decoding on the GPU"):
        clipfleet.embed(
            [{"id": "1", "uri": "/1.jpg"}],
            "vectors",
            model="examples/demo/model/demo.img.fp32.onnx",
            gate_sample="photos",
            settings=Settings(),
        )

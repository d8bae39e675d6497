"""Inputs for speed measurements: realistic and all different."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Architecture, Tower

# The tokeniser's vocabulary: 0 is padding; below the first word are special and reserved ids.
_CLS, _SEP, _FIRST_WORD = 101, 102, 672
_SHORTEST_TEXT = 3  # tokens: [CLS], one word, [SEP]


def random_inputs(
    architecture: Architecture,
    tower: Tower,
    *,
    count: int,
    context_length: int | None = None,
    seed: int = 0,
) -> NDArray[Any]:
    """Return inputs of a tower: float32 (n, 3, S, S) pixels, or int64 (n, L) ids.

    Pixels are normal with mean 0 and deviation 1, as preprocessed pictures nearly are.
    Texts have between 3 and L tokens and are padded with zeros.
    """
    random = np.random.default_rng(seed)
    if tower == "img":
        side = architecture.resolution
        return random.standard_normal((count, 3, side, side), dtype=np.float32)
    length = context_length or architecture.context_length
    size = architecture.text.vocabulary_size
    ids = random.integers(min(_FIRST_WORD, size - 1), size, (count, length))
    lengths = random.integers(min(_SHORTEST_TEXT, length), length + 1, (count, 1))
    position = np.arange(length)
    ids = np.where(position < lengths, ids, 0)
    ids[:, 0] = _CLS
    ids[position == lengths - 1] = _SEP
    return ids.astype(np.int64)

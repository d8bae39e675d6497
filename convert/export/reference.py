"""The reference of engines: the features of float32 PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.convert.parity import Features

TORCH_REFERENCE = f"torch {torch.__version__} float32"

_BATCH = 4  # items at once


def reference_features(model: ChineseClip, tower: Tower, inputs: NDArray[Any]) -> Features:
    """Return a model's features of a tower's inputs, float32 (n, D), not normalised."""
    encode = model.encode_image if tower == "img" else model.encode_text
    batches = torch.split(torch.from_numpy(inputs), _BATCH)
    with torch.inference_mode():
        features: Features = torch.cat([encode(batch).float() for batch in batches]).numpy()
    return features

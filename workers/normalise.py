"""L2 normalisation: from an engine's features to the vectors that are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def l2_normalise(features: NDArray[Any]) -> NDArray[np.float32]:
    """Return features (n, D) divided by their L2 norms, float32 (n, D).

    A row that has no direction (all zeros, or with a NaN or an infinity) becomes all NaN.
    """
    wide = features.astype(np.float64)  # squares of float32 can overflow float32
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    norms[(norms == 0) | ~np.isfinite(norms)] = np.nan
    vectors: NDArray[np.float32] = (wide / norms).astype(np.float32)
    return vectors

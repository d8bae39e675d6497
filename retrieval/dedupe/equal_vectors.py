"""Vectors that are equal to the bit: a crawl has the same placeholder a hundred thousand times.

They would fill one cell, whose rows are compared with each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 4096


def digests_of(vectors: NDArray[np.float16]) -> NDArray[np.uint64]:
    """Return a number (n,) for each vector (n, D); equal vectors have equal numbers."""
    weights = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64)
    bits = vectors.view(np.uint16).astype(np.uint64)
    digests: NDArray[np.uint64] = bits @ (2 * weights + 1)  # modulo 2^64
    return digests


def find_first_equal(
    stored: NDArray[np.float16], dataset_rows: NDArray[np.int64], digests: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the first rank with the same vector as each rank, (n,).

    `stored` (n, D) and `digests` (n,) are in the order of the dataset.
    """
    _, first, group = np.unique(digests[dataset_rows], return_index=True, return_inverse=True)
    ranks = np.arange(len(dataset_rows))
    found: NDArray[np.int64] = first[group]
    later = np.flatnonzero(found != ranks)
    for start in range(0, len(later), _BLOCK_ROWS):  # different vectors may have one digest
        some = later[start : start + _BLOCK_ROWS]
        a, b = (stored[dataset_rows[each]].view(np.uint16) for each in (some, found[some]))
        differ = some[(a != b).any(axis=1)]
        found[differ] = differ
    return found

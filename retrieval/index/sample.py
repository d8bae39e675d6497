"""The vectors that train the lists: a sample that is spread over all parts of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.index.card import IndexedPart
from clipfleet.retrieval.index.dataset_parts import read_groups
from clipfleet.storage.format.dataset import Dataset

# A source's folders follow each other, so neighbouring rows are alike: many places are read.
_LEAST_PLACES = 256
_ROWS_OF_PLACE = 256


def training_sample(
    dataset: Dataset, parts: Sequence[IndexedPart], rows: int, *, seed: int
) -> NDArray[np.float16]:
    """Return up to `rows` vectors (n, D), from row groups at equal distances in the dataset.

    The same parts and seed give the same vectors. Memory holds the sample and one row group.

    Raises:
        DatasetError: A part was changed, moved away, or is damaged.
        StorageError: The disk or the object store did not answer.
    """
    starts = [0, *accumulate(part.rows for part in parts)]
    total = starts[-1]
    count = min(total, max(_LEAST_PLACES, -(-rows // _ROWS_OF_PLACE)))
    places = (np.arange(count) * total + total // 2) // count
    owners = np.searchsorted(starts, places, side="right") - 1
    sample = np.empty((min(rows, total), dataset.info.dim), np.float16)
    taken, left = 0, count
    for owner in np.unique(owners):
        of_part = places[owners == owner] - starts[owner]
        groups = list(read_groups(dataset, parts[owner], of_part.tolist()))
        found = np.concatenate(groups)
        share = min(len(found), -(-(len(sample) - taken) * len(of_part) // left))
        chosen = np.random.default_rng((seed, int(owner))).choice(len(found), share, replace=False)
        sample[taken : taken + share] = found[np.sort(chosen)]
        taken, left = taken + share, left - len(of_part)
    return sample[:taken]

"""The ids of an index: each is there once."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from clipfleet.retrieval.index.index import Index
from clipfleet.storage.verify.id_counts import DOUBLED, IdCounts

_ROWS = 65_536  # whose ids are held
_SHOWN = 5


def doubled_ids(index: Index) -> tuple[int, list[str]]:
    """Return how many ids several rows of an index have, and the first few of these ids.

    Raises:
        StorageError: The temporary folder is full: ids that do not fit into memory lie there.
    """
    rows = np.flatnonzero(index.alive)
    with closing(IdCounts()) as counts:
        for start in range(0, len(rows), _ROWS):
            items = index.items(rows[start : start + _ROWS])
            counts.write(items["id"].to_pylist(), single=False)
        return counts.count(DOUBLED), counts.first(DOUBLED, _SHOWN)

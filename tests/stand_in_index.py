"""An index in memory, which searches exactly and needs no FAISS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.parameters import SearchParameters, Structure
from clipfleet.retrieval.neighbours import Neighbours
from tests.datasets import make_card


class StandInIndex:
    """What a search needs of an index; `hidden` rows are never found."""

    path = Path("/indexes/photos")

    def __init__(
        self, items: Sequence[Item], vectors: NDArray[np.float32], hidden: Sequence[int] = ()
    ) -> None:
        tower: Tower = "img" if items[0].uri is not None else "txt"
        self._items, self._vectors, self._hidden = items, vectors, list(hidden)
        self._value = "uri" if tower == "img" else "text"
        self.dim = vectors.shape[1]
        self.card = IndexCard(
            dataset="/vectors/photos",
            model=make_card(tower, dim=self.dim),
            structure=Structure(kind="exact"),
            shards=(),
            parameters=SearchParameters(probes=0, rerank=0),
            seconds=1.0,
            created_at="2026-11-22T00:00:00.000+00:00",
        )

    @property
    def alive(self) -> NDArray[np.bool_]:
        return ~np.isin(np.arange(len(self._items)), self._hidden)

    def __len__(self) -> int:
        return len(self._items)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        parameters: SearchParameters | None = None,
    ) -> Neighbours:
        cosines = queries @ self._vectors.T  # (q, n)
        cosines[:, self._hidden] = -np.inf
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(cosines, rows, axis=1)
        return Neighbours(rows=np.where(np.isinf(scores), -1, rows), scores=scores)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        return self._vectors[rows].astype(np.float16)

    def items(self, rows: NDArray[np.int64]) -> pa.Table:
        chosen = [self._items[row] for row in rows]
        values = [getattr(item, self._value) for item in chosen]
        schema = pa.schema([("id", pa.string()), (self._value, pa.string())])
        return pa.table([[item.id for item in chosen], values], schema=schema)


def stand_in_index(
    items: Sequence[Item], vectors: NDArray[np.float32], hidden: Sequence[int] = ()
) -> Index:
    return cast(Index, StandInIndex(items, vectors, hidden))

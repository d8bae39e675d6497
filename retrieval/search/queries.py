"""Queries: what is asked, and its vectors or the reasons why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from clipfleet.architectures import Tower
from clipfleet.items import Item
from clipfleet.storage.format.results import Embedded

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[Item]], Embedded]  # a vector or a failure for each item


@dataclass(frozen=True, kw_only=True, slots=True)
class NoVector:
    """Why a query has no vector: a class of errors (`clipfleet.error_codes`), and the reason."""

    error: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Queries:
    """A batch of n queries, in the order in which they were asked.

    `first` is the position of the first one, counted from 0. `tower` is None for ready vectors;
    `asked` has the texts or the uris of the others. `vectors` is float32 (n, D) with L2 norms of 1;
    a query in `failures`, which are by the row in this batch, has zeros.
    """

    first: int
    ids: list[str]
    tower: Tower | None
    asked: list[str | None]
    vectors: Vectors
    failures: dict[int, NoVector]

    def __len__(self) -> int:
        return len(self.ids)


def encoded_queries(
    items: Iterable[Item], encode: Encode, *, tower: Tower, dim: int, size: int, first: int = 0
) -> Iterator[Queries]:
    """Yield the queries of texts or images, `size` at a time; memory holds one batch."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        embedded = encode(batch)
        failures = {id(failure.item): failure for failure in embedded.failures}
        vectors = np.zeros((len(batch), dim), np.float32)
        vectors[[id(item) not in failures for item in batch]] = embedded.vectors
        yield Queries(
            first=first,
            ids=[item.id for item in batch],
            tower=tower,
            asked=[item.uri if tower == "img" else item.text for item in batch],
            vectors=vectors,
            failures={
                row: NoVector(error=failures[id(item)].error, message=failures[id(item)].message)
                for row, item in enumerate(batch)
                if id(item) in failures
            },
        )
        first += len(batch)

"""The queries of a certificate, and their exact neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import UsageError
from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import CUTOFFS, QueryKind
from clipfleet.retrieval.certificate.searchable import Searchable
from clipfleet.retrieval.exact import exact_top_k
from clipfleet.retrieval.neighbours import Neighbours

QUERIES = 1000  # of each kind; all, if there are fewer


@dataclass(frozen=True, kw_only=True, slots=True)
class QuerySample:
    """Queries of one kind: float32 `vectors` (q, D).

    `own` are the rows of the index (q,) that are the queries themselves; a search leaves them out
    of their own answers. It is None for queries from elsewhere.
    """

    kind: QueryKind
    vectors: NDArray[np.float32]
    own: NDArray[np.int64] | None = None

    def without_own(self, found: Neighbours, k: int) -> Neighbours:
        """Return the k best of k + 1 neighbours, without each query's own row."""
        if self.own is None:
            order = np.broadcast_to(np.arange(k), (len(found.rows), k))
        else:
            order = np.argsort(found.rows == self.own[:, None], axis=1, kind="stable")[:, :k]
        return Neighbours(
            rows=np.take_along_axis(found.rows, order, axis=1),
            scores=np.take_along_axis(found.scores, order, axis=1),
        )


def held_out(index: Searchable, *, count: int, seed: int) -> QuerySample:
    """Return rows of an index, sampled evenly over all that are alive.

    Raises:
        UsageError: The index has no row that is alive.
    """
    alive = np.flatnonzero(index.alive)
    if not len(alive):
        raise UsageError("the index has no vectors: index a dataset that has some")
    chosen = np.random.default_rng(seed).choice(alive, min(count, len(alive)), replace=False)
    rows = np.sort(chosen).astype(np.int64)  # in the order of the file
    return QuerySample(kind="held-out", vectors=index.vectors(rows).astype(np.float32), own=rows)


def of_dataset(dataset: Dataset, *, count: int, seed: int) -> QuerySample:
    """Return vectors of a dataset, sampled evenly over all of its parts, which are read once.

    Raises:
        UsageError: The dataset has no vectors.
        DatasetError: A part is damaged, or was moved away or replaced.
    """
    total = len(dataset)
    if not total:
        raise UsageError(f"{dataset.path} has no vectors: name queries with vectors")
    drawn = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    chosen, start = np.sort(drawn), 0
    taken: list[NDArray[Any]] = []
    for _, vectors in dataset.batches():
        inside = chosen[(chosen >= start) & (chosen < start + len(vectors))] - start
        taken.append(vectors[inside])
        start += len(vectors)
    return QuerySample(kind=dataset.model.tower, vectors=np.concatenate(taken).astype(np.float32))


def exact_neighbours(index: Searchable, samples: Sequence[QuerySample]) -> list[Neighbours]:
    """Return the 100 best rows of each query by exact search, for each of the samples.

    One pass over the index's vectors serves all samples.

    Raises:
        DependencyError: FAISS is not installed.
    """
    most = CUTOFFS[-1]
    rows = np.flatnonzero(index.alive)
    together = np.concatenate([sample.vectors for sample in samples])
    found = exact_top_k(together, _blocks_alive(index), most + 1)
    known = np.where(found.rows < 0, -1, rows[found.rows])  # numbers among those alive → rows
    results, start = [], 0
    for sample in samples:
        end = start + len(sample.vectors)
        part = Neighbours(rows=known[start:end], scores=found.scores[start:end])
        results.append(sample.without_own(part, most))
        start = end
    return results


def _blocks_alive(index: Searchable) -> Iterator[NDArray[Any]]:
    alive, start = index.alive, 0
    for block in index.blocks():
        here = alive[start : start + len(block)]
        yield block if here.all() else block[here]
        start += len(block)

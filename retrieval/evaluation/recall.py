"""Recall at k as the original's `evaluation.py` and `evaluation_tr.py` compute it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.evaluation.gold import Answers
from clipfleet.retrieval.evaluation.predictions import PredictionFile
from clipfleet.retrieval.evaluation.vector_set import BATCH_ROWS, Vectors, VectorSet
from clipfleet.retrieval.exact import exact_top_k

DEPTHS = (1, 5, 10)
TOP = max(DEPTHS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """The recall of one direction, in per cent; a query with no vector is a miss.

    `queries` counts the gold queries. Of these, `failed` are items whose embedding failed, and
    `absent` are not in the dataset. `hits` counts the queries that have a gold answer among the
    first 1, 5 and 10.
    """

    queries: int
    failed: int
    absent: int
    hits: tuple[int, int, int]

    @property
    def r1(self) -> float:
        return self._share(0) * 100

    @property
    def r5(self) -> float:
        return self._share(1) * 100

    @property
    def r10(self) -> float:
        return self._share(2) * 100

    @property
    def mean_recall(self) -> float:
        # In the original's order of operations: the figures are equal to the last bit.
        return (self._share(0) + self._share(1) + self._share(2)) / 3.0 * 100

    def to_json(self) -> dict[str, Any]:
        """Return the figures in JSON's types, in per cent."""
        return {
            "r1": self.r1,
            "r5": self.r5,
            "r10": self.r10,
            "mean_recall": self.mean_recall,
            "queries": self.queries,
            "failed": self.failed,
            "absent": self.absent,
        }

    def _share(self, depth: int) -> float:
        return self.hits[depth] * 1.0 / self.queries


def recall(
    queries: VectorSet,
    corpus: VectorSet,
    answers: Answers,
    *,
    predictions: PredictionFile | None = None,
    show: Callable[[int, int], None] | None = None,
) -> Recall:
    """Return how often the gold answers are among the nearest items of a corpus.

    With `predictions`, all queries are searched and written, otherwise those of `answers` only.
    `show` is called with so many of so many pairs of a query and an item.
    Memory holds at most 131,072 queries, a block of the corpus, the ids, and the gold pairs.

    Raises:
        DatasetError: A part is damaged, or was moved away or replaced.
    """
    ids = corpus.ids
    wanted = {id_ for right in answers.values() for id_ in right}
    row_of = {id_: row for row, id_ in enumerate(ids) if id_ in wanted}
    hits = np.zeros(len(DEPTHS), np.int64)
    found: set[str] = set()
    asked = queries.ids if predictions else [id_ for id_ in queries.ids if id_ in answers]
    done = 0

    def blocks(count: int) -> Iterator[Vectors]:
        nonlocal done
        for _, block in corpus.batches():
            yield block
            done += count * len(block)
            if show:
                show(done, len(asked) * len(ids))

    for names, vectors in _chunks(queries, {*asked}):
        rows = exact_top_k(vectors, blocks(len(names)), TOP).rows
        if predictions:
            predictions.write(names, rows, ids)
        scored = [(n, answers[name]) for n, name in enumerate(names) if name in answers]
        found |= {names[n] for n, _ in scored}
        for n, right in scored:
            gold = {row_of[id_] for id_ in right if id_ in row_of}
            place = next((p for p, row in enumerate(rows[n].tolist()) if row in gold), TOP)
            hits += place < np.array(DEPTHS)
    missing = answers.keys() - found
    failed = sum(row.id in missing for row in queries.errors()) if missing else 0
    first, fifth, tenth = hits.tolist()
    return Recall(
        queries=len(answers),
        failed=failed,
        absent=len(missing) - failed,
        hits=(first, fifth, tenth),
    )


def _chunks(
    queries: VectorSet, wanted: Container[str]
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield the ids and vectors, float32 (k, D), of the wanted queries.

    The corpus is read once for each chunk: all but the last hold `BATCH_ROWS` queries or more,
    and less than twice as many.
    """
    names: list[str] = []
    pieces: list[NDArray[np.float32]] = []
    for ids, vectors in queries.batches():
        rows = [n for n, id_ in enumerate(ids) if id_ in wanted]
        names += [ids[n] for n in rows]
        pieces.append(vectors[rows].astype(np.float32))
        if len(names) >= BATCH_ROWS:
            yield names, np.concatenate(pieces)
            names, pieces = [], []
    if names:
        yield names, np.concatenate(pieces)

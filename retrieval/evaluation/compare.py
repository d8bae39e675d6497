"""Compare two datasets of the same ids: may their vectors stand side by side?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import UsageError
from clipfleet.retrieval.evaluation.comparison import (
    MIN_COSINE,
    NEIGHBOURS,
    Comparison,
    Cosines,
    DatasetRecalls,
)
from clipfleet.retrieval.evaluation.evaluate import evaluate
from clipfleet.retrieval.evaluation.gold import GoldPairs
from clipfleet.retrieval.evaluation.overlap import mean_overlap, without_own
from clipfleet.retrieval.evaluation.vector_set import Vectors, VectorSet
from clipfleet.retrieval.exact import exact_top_k

SAMPLE = 1000  # items whose neighbours are compared
_SHOWN = 5  # ids that only one dataset has
_PAIRS = 131_072  # vectors of A in memory, each beside its vector of B
_CAST_ROWS = 8192  # that are float32 at once


def compare(a: VectorSet, b: VectorSet, *, sample: int = SAMPLE) -> Comparison:
    """Compare the vectors that two datasets have for the same ids.

    All shared ids give a cosine. The neighbours of `sample` of them, spread evenly over A, are
    searched exactly among the shared ids, in A and in B. Memory holds the ids and 131,072 vectors
    of each; B is read once for every 131,072 vectors of A.

    Raises:
        UsageError: The datasets are of two towers, or share fewer than two ids.
        DatasetError: A part is damaged, or was moved away or replaced.
    """
    if a.model.tower != b.model.tower:
        raise UsageError(
            f"{a.path} has vectors of the {a.model.tower} tower, and {b.path} of the "
            f"{b.model.tower} tower: compare datasets of one tower"
        )
    ids_a, ids_b = {*a.ids}, {*b.ids}
    shared = ids_a & ids_b
    if len(shared) < 2:
        raise UsageError(
            f"{a.path} and {b.path} have {len(shared)} ids in common: compare datasets of the same "
            f"items (their first ids are {a.ids[:1]} and {b.ids[:1]})"
        )
    in_order = [id_ for id_ in a.ids if id_ in shared]
    places = np.linspace(0, len(in_order) - 1, min(sample, len(in_order))).astype(int)
    asked = [in_order[place] for place in places]
    return Comparison(
        a=a.path,
        b=b.path,
        shared=len(shared),
        only_a=len(ids_a) - len(shared),
        only_b=len(ids_b) - len(shared),
        first_only_a=tuple(sorted(ids_a - shared)[:_SHOWN]),
        first_only_b=tuple(sorted(ids_b - shared)[:_SHOWN]),
        cosines=_cosines(a, b, shared) if a.dim == b.dim else None,
        overlap=mean_overlap(_neighbours(a, asked, shared), _neighbours(b, asked, shared)),
        queries=len(asked),
    )


def dataset_recalls(one: VectorSet, against: VectorSet, gold: GoldPairs) -> DatasetRecalls:
    """Return the recall of both directions between a dataset and one of the other tower.

    Raises:
        UsageError: The datasets are of two models or of one tower, or lack the gold pairs' ids.
        DatasetError: A part is damaged, or was moved away or replaced.
    """
    images, texts = (one, against) if one.model.tower == "img" else (against, one)
    found = evaluate(images, texts, gold)
    return DatasetRecalls(text_to_image=found.text_to_image, image_to_text=found.image_to_text)


def _cosines(a: VectorSet, b: VectorSet, shared: Collection[str]) -> Cosines:
    ids: list[str] = []
    found: list[NDArray[np.float32]] = []
    for names, left, right in _pairs(a, b, shared):
        ids += names
        for start in range(0, len(names), _CAST_ROWS):
            some = slice(start, start + _CAST_ROWS)
            found.append(_row_cosines(left[some], right[some]))
    cosines = np.concatenate(found)
    lowest = int(cosines.argmin())
    p01, p1, p50 = (float(value) for value in np.percentile(cosines, (0.1, 1, 50)))
    return Cosines(
        mean=float(cosines.mean(dtype=np.float64)),
        lowest=float(cosines[lowest]),
        lowest_id=ids[lowest],
        p01=p01,
        p1=p1,
        p50=p50,
        share=float((cosines >= MIN_COSINE).mean()),
    )


def _row_cosines(left: Vectors, right: Vectors) -> NDArray[np.float32]:
    left, right = left.astype(np.float32), right.astype(np.float32)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: NDArray[np.float32] = np.einsum("nd,nd->n", left, right) / lengths
    return cosines


def _pairs(
    a: VectorSet, b: VectorSet, shared: Collection[str]
) -> Iterator[tuple[list[str], Vectors, Vectors]]:
    """Yield the shared ids of some rows of A, with their vectors of A and of B."""
    for ids, vectors in a.batches(_PAIRS):
        rows = [n for n, id_ in enumerate(ids) if id_ in shared]
        names = [ids[n] for n in rows]
        if names:
            yield names, vectors[rows], _gather(b, names)


def _gather(vectors: VectorSet, names: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors, float32 (n, D), of n ids, in their order; every id is there."""
    place = {name: n for n, name in enumerate(names)}
    gathered = np.empty((len(names), vectors.dim), np.float32)
    left = len(names)
    for ids, batch in vectors.batches():
        rows = [n for n, id_ in enumerate(ids) if id_ in place]
        gathered[[place[ids[n]] for n in rows]] = batch[rows]
        left -= len(rows)
        if not left:
            break
    return gathered


def _neighbours(
    vectors: VectorSet, asked: Sequence[str], shared: Collection[str]
) -> list[list[str]]:
    """Return the ids of the nearest neighbours that items have among the shared ids."""
    ids: list[str] = []

    def blocks() -> Iterator[Vectors]:
        for names, batch in vectors.batches():
            rows = [n for n, id_ in enumerate(names) if id_ in shared]
            ids.extend(names[n] for n in rows)
            yield batch[rows]

    found = exact_top_k(_gather(vectors, asked), blocks(), NEIGHBOURS + 1)
    row_of = {id_: row for row, id_ in enumerate(ids)}
    own = np.array([row_of[id_] for id_ in asked])
    return [[ids[row] for row in rows] for rows in without_own(found.rows, own, NEIGHBOURS)]

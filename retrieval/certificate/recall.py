"""Recall: the share of the nearest rows that a search finds."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clipfleet.retrieval.certificate.certificate import (
    CHOSEN_BY,
    CUTOFFS,
    Interval,
    Recall,
    SelfSearch,
)
from clipfleet.retrieval.certificate.sample import QuerySample
from clipfleet.retrieval.certificate.searchable import Searchable
from clipfleet.retrieval.index.parameters import SearchParameters
from clipfleet.retrieval.neighbours import Neighbours

Shares = NDArray[np.float64]

_TIE = 1e-6  # scores that differ by less are equal: sums of float32 in another order
_AT_ONCE = 64  # queries whose found vectors are held: 13 MB at k = 100, D = 512
_Z = NormalDist().inv_cdf(0.975)  # 1.96
_WORST = 0.05


def recall_of(
    index: Searchable, sample: QuerySample, exact: Neighbours, parameters: SearchParameters
) -> Recall:
    """Return the recall of an index, each recall@k from a search for k rows."""
    shares = {k: shares_found(index, sample, exact, k, parameters) for k in CUTOFFS}
    deciding = shares[CHOSEN_BY]
    at_1, at_10, at_100 = (interval(shares[k]) for k in CUTOFFS)
    tenths = np.floor(deciding * CHOSEN_BY + _TIE).astype(np.int64)
    worst = np.sort(deciding)[: math.ceil(_WORST * len(deciding))]
    return Recall(
        kind=sample.kind,
        queries=len(deciding),
        at=(at_1, at_10, at_100),
        found=tuple(np.bincount(tenths, minlength=CHOSEN_BY + 1).tolist()),
        worst=float(worst.mean()),
    )


def shares_found(
    index: Searchable,
    sample: QuerySample,
    exact: Neighbours,
    k: int,
    parameters: SearchParameters,
) -> Shares:
    """Return recall@k of each query (q,), against its exact neighbours.

    A row is found if its exact score is at least that of the last of the k nearest: of rows with
    equal scores any will do. The scores that the search gives are not trusted: they are computed
    again from the vectors. Of an index of fewer than k rows, all are to be found.
    """
    left_out = 0 if sample.own is None else 1
    found = index.search(sample.vectors, k + left_out, parameters=parameters)
    rows = sample.without_own(found, k).rows
    wanted = np.minimum((exact.rows >= 0).sum(axis=1), k)
    last = np.take_along_axis(exact.scores, np.maximum(wanted - 1, 0)[:, None], axis=1)
    scores = exact_scores(index, sample.vectors, rows)
    hits = ((scores >= last - _TIE) & _first_of_their_row(rows)).sum(axis=1)
    shares: Shares = np.minimum(hits, wanted) / np.maximum(wanted, 1)
    shares[wanted == 0] = 1.0  # the index has no other row
    return shares


def exact_scores(
    index: Searchable, queries: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the exact scores (q, k) of rows (q, k); -inf for a missing row, or a tombstone."""
    scores = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        vectors = index.vectors(np.maximum(some, 0).ravel()).astype(np.float32)
        scores[start : start + _AT_ONCE] = np.einsum(
            "qd,qkd->qk",
            queries[start : start + _AT_ONCE],
            vectors.reshape(*some.shape, queries.shape[1]),
        )
    scores[(rows < 0) | ~index.alive[rows]] = -np.inf
    return scores


def search_itself(
    index: Searchable, sample: QuerySample, parameters: SearchParameters
) -> SelfSearch:
    """Search for rows of an index by their own vectors."""
    if sample.own is None:
        raise ValueError(f"queries of kind {sample.kind!r} are no rows of the index")
    rows = index.search(sample.vectors, CHOSEN_BY, parameters=parameters).rows
    own = exact_scores(index, sample.vectors, sample.own[:, None])
    as_good = exact_scores(index, sample.vectors, rows) >= own - _TIE
    crowded_out = (as_good & _first_of_their_row(rows)).sum(axis=1) == CHOSEN_BY
    found = (rows == sample.own[:, None]).any(axis=1) | crowded_out
    return SelfSearch(rows=len(found), found=int(found.sum()))


def interval(shares: Shares) -> Interval:
    """Return the mean of shares from 0 to 1, and the bounds of its 95 % confidence interval.

    The interval is the normal one, but for each bound one query more is assumed: for the lower
    bound one of share 0, for the upper one of share 1. So the lower bound of n shares of 1 is
    about 1 - 3 / n, and not 1: see docs/explanation/adr/0032-certificate.md.
    """
    low, high = (_bound(np.append(shares, extreme), sign) for extreme, sign in ((0, -1), (1, 1)))
    return Interval(mean=float(shares.mean()), low=max(low, 0.0), high=min(high, 1.0))


def provable(queries: int) -> float:
    """Return the lower bound of so many queries of which everything was found."""
    return interval(np.ones(queries)).low


def _bound(shares: Shares, sign: int) -> float:
    return float(shares.mean() + sign * _Z * shares.std(ddof=1) / math.sqrt(len(shares)))


def _first_of_their_row(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where (q, k) a row comes for the first time: a row that comes twice is one hit."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    first = np.ones(rows.shape, np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result

"""The queries of all indexes, with their exact neighbours; recall and latency of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
KINDS = ("images", "texts")
_WARM_UP = 20  # queries

Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]  # (1, D), k: rows (1, k)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What an index answered to one kind of query: recall@10, and milliseconds of one query.

    A query has one thread. `cpu_ms` is the CPU time of a query.
    """

    recall: float
    p50_ms: float
    p95_ms: float
    cpu_ms: float


def write_queries(
    folder: Path,
    queries: dict[str, NDArray[np.float32]],
    blocks: Callable[[], Iterator[NDArray[Any]]],
) -> None:
    """Write queries of each kind and their exact neighbours among the rows of `blocks()`."""
    from clipfleet.retrieval.exact import exact_top_k

    found = exact_top_k(np.concatenate([queries[kind] for kind in KINDS]), blocks(), K).rows
    sizes = [len(queries[kind]) for kind in KINDS]
    exact = dict(zip(KINDS, np.split(found, np.cumsum(sizes)[:-1]), strict=True))
    for kind in KINDS:
        np.savez(_path(folder, kind), queries=queries[kind], exact=exact[kind])


def ask(folder: Path, search: Search) -> dict[str, Answers]:
    """Return what an index answers to the queries of a folder, one query a call."""
    found = {}
    for kind in KINDS:
        with np.load(_path(folder, kind)) as file:
            found[kind] = _answers(file["queries"], file["exact"], search)
    return found


def _path(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.npz"


def _answers(queries: NDArray[np.float32], exact: NDArray[np.int64], search: Search) -> Answers:
    for query in queries[:_WARM_UP]:
        search(query[None], K)
    times_s, hits, cpu_s = [], 0, time.process_time()
    for query, right in zip(queries, exact, strict=True):
        began_s = time.perf_counter()
        rows = search(query[None], K)
        times_s.append(time.perf_counter() - began_s)
        hits += len(np.intersect1d(rows, right))
    return Answers(
        recall=hits / exact.size,
        p50_ms=1000 * float(np.quantile(times_s, 0.5)),
        p95_ms=1000 * float(np.quantile(times_s, 0.95)),
        cpu_ms=1000 * (time.process_time() - cpu_s) / len(queries),
    )

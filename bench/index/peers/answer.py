"""Ask one index in a process of its own, and print what it answered as JSON.

python -m bench.index.peers.answer clipfleet INDEX QUERIES
python -m bench.index.peers.answer hnsw FILE QUERIES --ef 64 256
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.index.peers.child import anonymous_bytes
from bench.index.peers.queries import Search, ask


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=["clipfleet", "faiss"])
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--ef", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    before = anonymous_bytes(os.getpid())
    opened = clipfleet_searches if arguments.library == "clipfleet" else faiss_searches
    found = []
    for setting, search in opened(arguments.index, arguments.ef):
        answers = ask(arguments.queries, search)
        found.append({"setting": setting, **{k: asdict(v) for k, v in answers.items()}})
    memory = anonymous_bytes(os.getpid()) - before
    print(json.dumps({"searches": found, "memory_bytes": memory}))


def clipfleet_searches(path: Path, _: list[int]) -> Iterator[tuple[str, Search]]:
    """Yield the search with the parameters of the index's card; a row is its id's number."""
    from clipfleet.retrieval.index.index import Index

    with Index.open(path) as index:
        ids = index.items(np.arange(len(index)))["id"].to_numpy().astype(np.int64)
        parameters = index.card.parameters
        yield (
            f"probes {parameters.probes}, rerank {parameters.rerank}",
            lambda query, k: ids[index.search(query, k).rows],
        )


def faiss_searches(path: Path, efs: list[int]) -> Iterator[tuple[str, Search]]:
    """Yield a search for each ef of a graph, or the search as the file is."""
    index = faiss.read_index(str(path))

    def search(query: NDArray[np.float32], k: int) -> NDArray[Any]:
        rows: NDArray[Any] = index.search(query, k)[1]
        return rows

    for ef in efs:
        faiss.ParameterSpace().set_index_parameter(index, "efSearch", ef)
        yield f"ef {ef}", search
    if not efs:
        yield "as built", search


if __name__ == "__main__":
    main()

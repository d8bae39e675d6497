"""Ask one index in a process of its own, and print what it answered as JSON.

python -m bench.index.peers.answer clipfleet INDEX QUERIES
python -m bench.index.peers.answer hnsw FILE QUERIES --ef 64 256
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.index.peers.queries import Search, ask

_CHECKED = 100  # rows whose ids must be their numbers, as bench.index.vectors made them


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=["clipfleet", "faiss"])
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--ef", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    opened = clipfleet_searches if arguments.library == "clipfleet" else faiss_searches
    found = []
    for setting, search in opened(arguments.index, arguments.ef):
        answers = ask(arguments.queries, search)
        found.append({"setting": setting, **{k: asdict(v) for k, v in answers.items()}})
    print(json.dumps(found))


def clipfleet_searches(path: Path, _: list[int]) -> Iterator[tuple[str, Search]]:
    """Yield the search with the parameters of the index's card."""
    from clipfleet.retrieval.index.index import Index

    with Index.open(path) as index:
        some = np.linspace(0, len(index) - 1, _CHECKED).astype(np.int64)
        ids = index.items(some)["id"].to_pylist()
        assert ids == [str(row) for row in some.tolist()], "the rows are not in the ids' order"
        parameters = index.card.parameters
        setting = f"probes {parameters.probes}, rerank {parameters.rerank}"
        yield setting, lambda query, k: index.search(query, k).rows


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

"""Build the graph of FAISS that most people take: HNSW with 32 links, over float16 vectors.

python -m bench.index.peers.hnsw DATASET FILE
"""

from __future__ import annotations

import sys

import faiss
import numpy as np

import clipfleet
from clipfleet.settings import cores

LINKS = 32
EF_CONSTRUCTION = 80


def main() -> None:
    folder, out = sys.argv[1:]
    faiss.omp_set_num_threads(cores())
    dataset = clipfleet.Dataset(folder)
    index = faiss.index_factory(dataset.dim, f"HNSW{LINKS}_SQfp16", faiss.METRIC_INNER_PRODUCT)
    faiss.ParameterSpace().set_index_parameter(index, "efConstruction", EF_CONSTRUCTION)
    for _, vectors in dataset.batches():
        block = vectors.astype(np.float32)
        if not index.is_trained:
            index.train(block)
        index.add(block)
    faiss.write_index(index, out)


if __name__ == "__main__":
    main()

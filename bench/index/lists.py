"""Compare numbers of lists: what training, encoding and a search take, at equal recall.

    python -m bench.index.lists --rows 262144 --lists 1024 2048 4096

The vectors are those of `bench.index.vectors`, in memory; the queries are pictures and captions
that are no rows. All times are CPU times, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.index.vectors import Recipe, all_pictures, held_out
from bench.index.world import DIM
from clipfleet.retrieval.certificate.certificate import QueryKind, Step
from clipfleet.retrieval.certificate.certify import cheapest
from clipfleet.retrieval.certificate.climb import Climb
from clipfleet.retrieval.certificate.latency import measure_latency
from clipfleet.retrieval.certificate.recall import interval
from clipfleet.retrieval.exact import exact_top_k
from clipfleet.retrieval.index.codes import Codes, train
from clipfleet.retrieval.index.parameters import SearchParameters, Structure
from clipfleet.retrieval.index.rerank import rerank
from clipfleet.retrieval.neighbours import Neighbours

RESULT = Path(__file__).parents[1] / "results" / "index_lists.json"
SEED = 7  # as in bench.index.vectors
_K = 10
_TIMED, _ROUNDS = 200, 5  # queries of a round; the median round counts
_BLOCK_ROWS = 16_384  # that are float32 while they are encoded
_TIE = 1e-6  # scores that differ by less are equal

Queries = dict[QueryKind, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The cheapest search that reaches the target; `recall` is recall@10 of the harder queries."""

    rows: int
    lists: int
    bits: int
    target: float
    reached: bool
    probes: int
    rerank: int
    recall: float
    p50_ms: float
    p95_ms: float
    train_s: float
    encode_s: float


class CodedRows:
    """Vectors (n, D) in memory, and their codes."""

    def __init__(self, vectors: NDArray[np.float16], codes: Codes) -> None:
        self._vectors = vectors
        self._codes = codes

    def search(
        self, queries: NDArray[np.float32], k: int, *, parameters: SearchParameters | None = None
    ) -> Neighbours:
        assert parameters is not None
        candidates = self._codes.nearest(queries, k * parameters.rerank, parameters.probes)
        return rerank(queries, candidates, k, lambda rows: self._vectors[rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--lists", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.95, 0.98])
    parser.add_argument("--queries", type=int, default=400, help="of each kind")
    parser.add_argument("--json", type=Path, default=RESULT, help="write the result here")
    arguments = parser.parse_args()
    vectors = np.empty((arguments.rows, DIM), np.float16)
    filled = 0
    for pictures in all_pictures(Recipe(rows=arguments.rows, texts=0, seed=SEED)):
        vectors[filled : filled + len(pictures)] = pictures
        filled += len(pictures)
    images, texts = held_out(images=arguments.queries, texts=arguments.queries, seed=SEED)
    queries: Queries = {"img": images.astype(np.float32), "txt": texts.astype(np.float32)}
    structures = [
        Structure(
            kind="ivf-rabitq",
            lists=lists,
            bits=arguments.bits,
            sample_rows=min(arguments.rows, 40 * lists),
        )
        for lists in arguments.lists
    ]
    found = []
    for one in measure(vectors, queries, structures, arguments.targets):
        print(json.dumps(asdict(one)), flush=True)
        found.append(asdict(one))
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(
    vectors: NDArray[np.float16],
    queries: Queries,
    structures: Sequence[Structure],
    targets: Sequence[float],
) -> Iterator[Searched]:
    """Yield the cheapest search of each structure for each target."""
    rows = len(vectors)
    last = {
        kind: exact_top_k(some, [vectors], _K).scores[:, -1:] - _TIE
        for kind, some in queries.items()
    }
    random = np.random.default_rng(0)
    mixture = random.permutation(np.concatenate([*queries.values()]))[:_TIMED]
    for structure in structures:
        began_s = time.process_time()
        sample = np.sort(random.choice(rows, structure.sample_rows, replace=False))
        codes = train(structure, DIM, vectors[sample])
        trained_s = time.process_time()
        for start in range(0, rows, _BLOCK_ROWS):
            codes.add(vectors[start : start + _BLOCK_ROWS])
        encoded_s = time.process_time()
        index = CodedRows(vectors, codes)

        def step(parameters: SearchParameters, index: CodedRows = index) -> Step:
            recalls = {
                kind: interval(
                    (index.search(some, _K, parameters=parameters).scores >= last[kind]).mean(1)
                )
                for kind, some in queries.items()
            }
            rounds = [
                measure_latency(index, mixture, parameters, clock=time.thread_time)
                for _ in range(_ROUNDS)
            ]
            median = sorted(rounds, key=lambda one: one.p50_ms)[_ROUNDS // 2]
            return Step(parameters=parameters, recalls=recalls, latency=median)

        for target in targets:

            def reaches(one: Step, target: float = target) -> bool:
                return _recall(one) >= target

            climb = Climb(measure=step, reaches=reaches, lists=structure.lists)
            climb.run(cheapest(structure))
            best = climb.reached or max(climb.steps, key=_recall)
            yield Searched(
                rows=rows,
                lists=structure.lists,
                bits=structure.bits,
                target=target,
                reached=climb.reached is not None,
                probes=best.parameters.probes,
                rerank=best.parameters.rerank,
                recall=round(_recall(best), 4),
                p50_ms=round(best.latency.p50_ms, 3),
                p95_ms=round(best.latency.p95_ms, 3),
                train_s=round(trained_s - began_s, 1),
                encode_s=round(encoded_s - trained_s, 1),
            )


def _recall(step: Step) -> float:
    return min(recall.mean for recall in step.recalls.values())


if __name__ == "__main__":
    main()

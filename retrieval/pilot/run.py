"""The pilot: structures of an index are tried on a sample, before the shards are built."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipfleet.reader import Dataset as Vectors
from clipfleet.retrieval.certificate.certificate import CHOSEN_BY, QueryKind, Step
from clipfleet.retrieval.certificate.certify import cheapest
from clipfleet.retrieval.certificate.climb import Climb
from clipfleet.retrieval.certificate.latency import measure_latency
from clipfleet.retrieval.certificate.recall import interval
from clipfleet.retrieval.certificate.sample import of_dataset
from clipfleet.retrieval.exact import exact_top_k
from clipfleet.retrieval.index.build import Choice, Show
from clipfleet.retrieval.index.card import IndexedPart
from clipfleet.retrieval.index.codes import Codes, same_lists, train
from clipfleet.retrieval.index.parameters import Pilot, SearchParameters, Structure, Trial
from clipfleet.retrieval.index.sample import training_sample
from clipfleet.retrieval.pilot.choice import choose
from clipfleet.retrieval.pilot.small_index import SmallIndex
from clipfleet.storage.format.dataset import Dataset

_QUERIES = 500  # of each kind; half of the certificate's, for all structures have the same
_TIMED = 100  # queries of each setting
_LEAST_ROWS, _MOST_ROWS = 4096, 262_144  # that are encoded
_TIE = 1e-6  # scores that differ by less are equal

Queries = dict[QueryKind, NDArray[np.float32]]


def run_pilot(
    dataset: Dataset,
    parts: Sequence[IndexedPart],
    structures: Sequence[Structure],
    *,
    min_recall: float,
    queries: Vectors | None,
    show: Show,
) -> Choice:
    """Try structures on a sample of a dataset, and choose the fastest that reaches `min_recall`.

    A tenth of the vectors is encoded for each: docs/explanation/adr/0032-certificate.md tells why.
    `queries` are of the other tower. Memory holds the training sample, and the codes of an index.

    Raises:
        DatasetError: A part was changed, moved away, or is damaged.
        StorageError: The disk or the object store did not answer.
    """
    started_s = time.monotonic()
    total, seed = sum(part.rows for part in parts), structures[0].seed
    encoded = min(_MOST_ROWS, max(_LEAST_ROWS, total // CHOSEN_BY))
    wanted = max(encoded + _QUERIES, *(structure.sample_rows for structure in structures))
    show("sampled for the pilot", 0, min(wanted, total))
    sample = training_sample(dataset, parts, wanted, seed=seed)
    show("sampled for the pilot", len(sample), len(sample))
    order = np.random.default_rng(seed).permutation(len(sample))
    left_out = min(_QUERIES, len(sample) // CHOSEN_BY)
    asked: Queries = {"held-out": sample[order[:left_out]].astype(np.float32)}
    if queries is not None:
        other = of_dataset(queries, count=_QUERIES, seed=seed)
        asked[other.kind] = other.vectors
    trials = _Trials(
        vectors=sample[np.sort(order[left_out : left_out + encoded])],
        sample=sample,
        total=total,
        queries=asked,
        min_recall=min_recall,
        show=show,
    )
    chosen, tried = choose(structures, trials.try_one)
    pilot = Pilot(
        rows=len(trials.vectors),
        copies=trials.copies,
        queries=sum(len(vectors) for vectors in asked.values()),
        min_recall=min_recall,
        seconds=round(time.monotonic() - started_s, 3),
        trials=tried,
    )
    return Choice(structure=chosen, trained=trials.trained(chosen), pilot=pilot)


class _Trials:
    """Tries structures with the same vectors and queries; lists are trained once."""

    def __init__(
        self,
        *,
        vectors: NDArray[np.float16],
        sample: NDArray[np.float16],
        total: int,
        queries: Queries,
        min_recall: float,
        show: Show,
    ) -> None:
        self.vectors = vectors
        self.copies = max(1, round(total / len(vectors)))
        self._sample = sample
        self._queries = queries
        self._mixture = np.random.default_rng(0).permutation(np.concatenate([*queries.values()]))
        self._best = {
            kind: exact_top_k(some, [vectors], 1).scores[:, 0] for kind, some in queries.items()
        }
        self._min_recall = min_recall
        self._show = show
        self._trained: dict[int, Codes] = {}

    def trained(self, structure: Structure) -> Codes:
        """Return the lists of a structure, without rows."""
        if structure.lists not in self._trained:
            random = np.random.default_rng(structure.seed)
            rows = min(structure.sample_rows, len(self._sample))
            chosen = np.sort(random.choice(len(self._sample), rows, replace=False))
            dim = self._sample.shape[1]
            self._trained[structure.lists] = train(structure, dim, self._sample[chosen])
        return same_lists(self._trained[structure.lists], structure.bits)

    def try_one(self, structure: Structure) -> Trial:
        """Build a small index, and find the cheapest parameters that reach the recall."""
        index = SmallIndex(self.vectors, self.trained(structure), copies=self.copies)
        climb = Climb(
            measure=lambda parameters: self._step(index, parameters),
            reaches=lambda step: _recall(step) >= self._min_recall,
            lists=structure.lists,
        )
        climb.run(cheapest(structure))
        step = climb.reached or max(climb.steps, key=_recall)
        rows = len(self.vectors)
        self._show(f"tried {structure.bits} bits in {structure.lists:,} lists", rows, rows)
        return Trial(
            bits=structure.bits,
            lists=structure.lists,
            parameters=step.parameters,
            recall=round(_recall(step), 5),
            cpu_ms=round(step.latency.p50_ms, 4),
            reaches=climb.reached is not None,
        )

    def _step(self, index: SmallIndex, parameters: SearchParameters) -> Step:
        recalls = {}
        for kind, queries in self._queries.items():
            found = index.search(queries, CHOSEN_BY, parameters=parameters).scores[:, 0]
            recalls[kind] = interval((found >= self._best[kind] - _TIE).astype(np.float64))
        # Other processes take time on a busy machine, but no time of this thread's CPU.
        latency = measure_latency(index, self._mixture[:_TIMED], parameters, clock=time.thread_time)
        return Step(parameters=parameters, recalls=recalls, latency=latency)


def _recall(step: Step) -> float:
    return min(recall.mean for recall in step.recalls.values())

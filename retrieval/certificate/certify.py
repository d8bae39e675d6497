"""An index is measured, its parameters are chosen, and its certificate is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipfleet.architectures import Tower
from clipfleet.errors import RecallError
from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.certificate import (
    CHOSEN_BY,
    Build,
    Certificate,
    Latency,
    Recall,
    Step,
    Target,
)
from clipfleet.retrieval.certificate.climb import Climb
from clipfleet.retrieval.certificate.latency import measure_latency, this_machine
from clipfleet.retrieval.certificate.recall import (
    interval,
    provable,
    recall_of,
    search_itself,
    shares_found,
)
from clipfleet.retrieval.certificate.remedies import (
    not_exact,
    out_of_reach,
    too_few_queries,
    too_slow,
)
from clipfleet.retrieval.certificate.sample import (
    QUERIES,
    QuerySample,
    exact_neighbours,
    held_out,
    of_dataset,
)
from clipfleet.retrieval.certificate.searchable import Searchable
from clipfleet.retrieval.index.parameters import RERANK, SearchParameters, Structure
from clipfleet.storage.format.dataset import utc_now

_FIRST_SHARE = 256  # one list of so many is read in the first setting
_RERANK_OF_ONE_BIT = 30
_TIMED_OF_A_STEP = 200  # queries; 1,000 of the setting that is chosen


def certify(
    index: Searchable,
    *,
    tower: Tower,
    structure: Structure,
    target: Target,
    build: Build,
    queries: Dataset | None = None,
    seed: int = 0,
) -> Certificate:
    """Measure an index, and choose the cheapest parameters that reach a target.

    `tower` is that of the index's vectors. Without `queries`, a dataset of the same checkpoint, the
    other tower is not certified. The queries are a sample, which `seed` chooses: 1,000 of each
    kind, or all. Memory holds a block of the index, and the queries with their 100 neighbours.

    Raises:
        RecallError: No parameters reach the target, or the queries are too few to prove it; or an
            exact index does not find everything. The message says what would reach it.
        UsageError: The index or `queries` has no vectors.
        DependencyError: FAISS is not installed.
    """
    samples = [held_out(index, count=QUERIES, seed=seed)]
    if queries is not None:
        samples.append(of_dataset(queries, count=QUERIES, seed=seed))
    if structure.kind != "exact":
        _check_number(samples, target)
    measuring = _Measuring(index, samples, seed)
    if structure.kind == "exact":
        steps = [measuring.step(cheapest(structure))]
        reached = steps[0]
        if reached.recall.mean < 1:
            raise RecallError(not_exact(reached))
    else:
        steps, reached = _climb(measuring, structure, target)
    timed = replace(reached, latency=measuring.latency(reached.parameters, QUERIES))
    steps = [timed if step is reached else step for step in steps]
    reached = timed
    if target.max_latency_ms is not None and reached.latency.p95_ms > target.max_latency_ms:
        raise RecallError(too_slow(steps, reached, structure, target))
    return Certificate(
        rows=int(np.count_nonzero(index.alive)),
        tower=tower,
        parameters=reached.parameters,
        target=target,
        recalls=measuring.recalls(reached.parameters),
        itself=search_itself(index, samples[0], reached.parameters),
        latency=reached.latency,
        steps=tuple(steps),
        build=build,
        machine=this_machine(),
        queries=queries.path if queries is not None else None,
        seed=seed,
        created_at=utc_now(),
    )


def cheapest(structure: Structure) -> SearchParameters:
    """Return the parameters that are tried first; more is tried until the target is reached."""
    if structure.kind == "exact":
        return SearchParameters(probes=0, rerank=0)
    return SearchParameters(
        probes=max(1, structure.lists // _FIRST_SHARE),
        rerank=_RERANK_OF_ONE_BIT if structure.bits == 1 else RERANK,
    )


def _check_number(samples: Sequence[QuerySample], target: Target) -> None:
    """Refuse queries that are too few to prove the target.

    Raises:
        RecallError: They are.
    """
    fewest = min(samples, key=lambda sample: len(sample.vectors))
    if provable(len(fewest.vectors)) < target.min_recall:
        raise RecallError(too_few_queries(fewest.kind, len(fewest.vectors), target))


def _climb(measuring: _Measuring, structure: Structure, target: Target) -> tuple[list[Step], Step]:
    """Return the settings that were tried, and the one that reaches the target.

    Raises:
        RecallError: None does.
    """
    climb = Climb(
        measure=measuring.step,
        reaches=lambda step: step.recall.low >= target.min_recall,
        lists=structure.lists,
    )
    climb.run(cheapest(structure))
    if climb.reached is None:
        raise RecallError(out_of_reach(climb.steps, structure, target))
    return climb.steps, climb.reached


class _Measuring:
    """Measures settings of one index with the same queries."""

    def __init__(self, index: Searchable, samples: Sequence[QuerySample], seed: int) -> None:
        self._samples = samples
        self._index = index
        self._exact = exact_neighbours(index, samples)
        together = np.concatenate([sample.vectors for sample in samples])
        self._mixture = np.random.default_rng(seed).permutation(together)

    def step(self, parameters: SearchParameters) -> Step:
        """Measure recall@10 of every kind, and the latency over all kinds."""
        recalls = {
            sample.kind: interval(shares_found(self._index, sample, exact, CHOSEN_BY, parameters))
            for sample, exact in zip(self._samples, self._exact, strict=True)
        }
        latency = self.latency(parameters, _TIMED_OF_A_STEP)
        return Step(parameters=parameters, recalls=recalls, latency=latency)

    def latency(self, parameters: SearchParameters, count: int) -> Latency:
        """Measure the latency of so many queries, a mixture of all kinds."""
        return measure_latency(self._index, self._mixture[:count], parameters)

    def recalls(self, parameters: SearchParameters) -> tuple[Recall, ...]:
        """Measure recall@1, @10 and @100 of every kind."""
        return tuple(
            recall_of(self._index, sample, exact, parameters)
            for sample, exact in zip(self._samples, self._exact, strict=True)
        )

"""The climb: probes, then re-ranking, and not more than is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clipfleet.retrieval.certificate.certificate import Interval, Latency, Step
from clipfleet.retrieval.certificate.climb import Climb
from clipfleet.retrieval.index.parameters import SearchParameters

START = SearchParameters(probes=1, rerank=10)
INSTANT = Latency(queries=1, p50_ms=1.0, p95_ms=1.0, p99_ms=1.0)


def climb(recall: Callable[[int, int], float], *, min_recall: float, lists: int = 64) -> Climb:
    def measure(parameters: SearchParameters) -> Step:
        mean = recall(parameters.probes, parameters.rerank)
        recalls = {"txt": Interval(mean=mean, low=mean - 0.01, high=mean + 0.01)}
        return Step(parameters=parameters, recalls=recalls, latency=INSTANT)  # type: ignore[arg-type]

    climbed = Climb(
        measure=measure, reaches=lambda step: step.recall.low >= min_recall, lists=lists
    )
    climbed.run(START)
    return climbed


def settings(climbed: Climb) -> list[tuple[int, int]]:
    return [(step.parameters.probes, step.parameters.rerank) for step in climbed.steps]


def test_probes_are_doubled_until_the_bound_reaches_the_target_and_then_halved_back() -> None:
    climbed = climb(lambda probes, _: probes / 64, min_recall=0.5)  # 33 probes: bound 0.506

    probes = [one for one, rerank in settings(climbed) if rerank == 10]
    assert probes == [1, 2, 4, 8, 16, 32, 64, 48, 40]
    assert climbed.reached is not None
    assert climbed.reached.parameters.probes == 40


def test_a_mean_above_the_target_does_not_suffice() -> None:
    climbed = climb(lambda probes, _: probes / 64, min_recall=1.0, lists=64)

    assert climbed.reached is None
    assert climbed.steps[-1].recall.mean == 1.0  # its bound is 0.99


def test_re_ranking_is_raised_where_more_probes_do_not_help() -> None:
    climbed = climb(lambda probes, rerank: min(probes / 4, rerank / 40), min_recall=0.95)

    assert settings(climbed) == [(1, 10), (2, 10), (2, 20), (4, 20), (4, 40)]
    assert climbed.reached is climbed.steps[-1]


def test_a_climb_ends_where_neither_helps() -> None:
    climbed = climb(lambda probes, _: min(probes, 4) / 8, min_recall=0.95, lists=1 << 20)

    assert climbed.reached is None
    assert settings(climbed) == [(1, 10), (2, 10), (4, 10), (8, 10), (8, 20)]


@pytest.mark.parametrize("lists", [1, 2, 3])
def test_no_more_lists_are_read_than_there_are(lists: int) -> None:
    climbed = climb(lambda probes, _: probes / lists, min_recall=0.98, lists=lists)

    assert climbed.reached is not None
    assert climbed.reached.parameters.probes == lists

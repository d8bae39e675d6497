"""Which structure a pilot tries, and which it chooses."""

from __future__ import annotations

import pytest

from clipfleet.retrieval.index.parameters import SearchParameters, Structure, Trial
from clipfleet.retrieval.index.sizing import GIB, structures_that_fit
from clipfleet.retrieval.pilot.choice import choose

MEASURED = SearchParameters(probes=8, rerank=10)
ALL = [
    Structure(kind="ivf-rabitq", lists=lists, bits=bits)
    for bits in (2, 1, 4)
    for lists in (64, 32, 16)
]
Times = dict[tuple[int, int], float]  # ms, by bits and lists


def chosen(times_ms: Times, structures: list[Structure] = ALL) -> tuple[tuple[int, int], Times]:
    """Return the chosen bits and lists, and what was tried; without a time, it finds too little."""

    def try_one(structure: Structure) -> Trial:
        time_ms = times_ms.get((structure.bits, structure.lists))
        return Trial(
            bits=structure.bits,
            lists=structure.lists,
            parameters=MEASURED,
            recall=structure.bits / 10 if time_ms is None else 0.95,
            cpu_ms=time_ms or 0.1,
            reaches=time_ms is not None,
        )

    structure, trials = choose(structures, try_one)
    return (structure.bits, structure.lists), {(t.bits, t.lists): t.cpu_ms for t in trials}


@pytest.mark.parametrize(
    ("times_ms", "best", "all_tried"),
    [
        # Half of the lists are faster, a quarter is not.
        (
            {(2, 64): 2.0, (1, 64): 3.0, (2, 32): 1.5, (2, 16): 1.8},
            (2, 32),
            {(2, 64), (1, 64), (2, 32), (2, 16)},
        ),
        # Nearly equal times: the smaller codes, then the fewer lists.
        (
            {(2, 64): 2.0, (1, 64): 2.09, (1, 32): 2.1, (1, 16): 2.5},
            (1, 32),
            {(2, 64), (1, 64), (1, 32), (1, 16)},
        ),
        # Only the most bits reach the recall.
        ({(4, 64): 9.0}, (4, 64), {(2, 64), (1, 64), (4, 64), (4, 32)}),
    ],
)
def test_the_fastest_that_reaches_the_recall_is_chosen_and_of_equals_the_smallest(
    times_ms: Times, best: tuple[int, int], all_tried: set[tuple[int, int]]
) -> None:
    found, tried = chosen(times_ms)
    assert found == best
    assert set(tried) == all_tried


def test_where_no_bits_reach_the_recall_those_that_find_most_are_chosen_without_more_trials() -> (
    None
):
    found, tried = chosen({})
    assert found == (4, 64)
    assert set(tried) == {(2, 64), (1, 64), (4, 64)}


def test_what_is_given_is_not_tried_otherwise() -> None:
    given = [one for one in ALL if one.lists == 64]
    assert set(chosen({(2, 64): 1.0}, given)[1]) == {(2, 64), (1, 64)}


@pytest.mark.parametrize(
    ("times_ms", "best", "twice_tried"),
    [
        ({(2, 64): 2.0, (1, 64): 3.0, (2, 32): 2.4, (2, 128): 1.5}, (2, 128), True),
        ({(2, 64): 2.0, (1, 64): 3.0, (2, 32): 2.4, (2, 128): 1.95}, (2, 64), True),
        ({(2, 64): 2.0, (1, 64): 3.0, (2, 32): 1.5, (2, 128): 1.0}, (2, 32), False),
        ({}, (4, 64), False),  # nothing reaches the recall, and more lists find no more
    ],
)
def test_twice_the_lists_are_tried_where_half_as_many_are_no_faster(
    times_ms: Times, best: tuple[int, int], twice_tried: bool
) -> None:
    twice = [Structure(kind="ivf-rabitq", lists=128, bits=bits) for bits in (2, 1, 4)]
    found, tried = chosen(times_ms, [*ALL, *twice])
    assert found == best
    assert ((2, 128) in tried) == twice_tried


def test_twice_the_lists_are_a_choice_only_for_a_fast_search() -> None:
    usual, fast = (
        structures_that_fit(1_000_000, 512, max_memory_bytes=4 * GIB, fast=fast)
        for fast in (False, True)
    )
    assert usual[0] == fast[0]
    assert {one.lists for one in usual} == {4096, 2048, 1024}
    assert {one.lists for one in fast} == {8192, 4096, 2048, 1024}

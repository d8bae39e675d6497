"""Which structures are tried, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipfleet.retrieval.index.parameters import Structure, Trial

_SAME = 1.05  # times that differ by a smaller factor are equal


def choose(
    structures: Sequence[Structure], try_one: Callable[[Structure], Trial]
) -> tuple[Structure, tuple[Trial, ...]]:
    """Return one of several structures, and all trials.

    First the bits are tried, each with the first of its structures, but not more bits than those
    that reach the recall. Then the lists are halved as long as that is faster; if half as many are
    not, twice as many are tried where they are among the structures. If no bits reach the recall,
    other lists are not tried: a climb that fails has read all lists that help.
    """
    first_of_bits: dict[int, Structure] = {}
    for structure in structures:
        first_of_bits.setdefault(structure.bits, structure)
    tried: dict[Structure, Trial] = {}
    for bits, structure in first_of_bits.items():
        if not any(trial.reaches and one.bits < bits for one, trial in tried.items()):
            tried[structure] = try_one(structure)
    chosen = _best(tried)
    while tried[chosen].reaches:
        half = next((one for one in structures if _has_half(one, chosen)), None)
        if half is None:
            break
        tried[half] = try_one(half)
        if _best({chosen: tried[chosen], half: tried[half]}) == chosen:
            break
        chosen = half
    twice = next((one for one in structures if _has_half(chosen, one)), None)
    if tried[chosen].reaches and twice is not None and twice not in tried:
        tried[twice] = try_one(twice)
        chosen = _best({chosen: tried[chosen], twice: tried[twice]})
    return chosen, tuple(tried.values())


def _has_half(structure: Structure, other: Structure) -> bool:
    return structure.bits == other.bits and structure.lists == other.lists // 2


def _best(tried: dict[Structure, Trial]) -> Structure:
    """Return the fastest structure that reaches the recall, or the one that finds most.

    Of equally fast ones it is that with the fewest bits, then the fewest lists: it takes the
    least memory and time to build.
    """
    reaching = [one for one, trial in tried.items() if trial.reaches]
    if not reaching:
        return max(tried, key=lambda one: tried[one].recall)
    limit_ms = _SAME * min(tried[one].cpu_ms for one in reaching)
    fast = [one for one in reaching if tried[one].cpu_ms <= limit_ms]
    return min(fast, key=lambda one: (one.bits, one.lists))

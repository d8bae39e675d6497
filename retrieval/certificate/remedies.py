"""Why an index is not certified, and what would reach the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipfleet.retrieval.certificate.certificate import QueryKind, Step, Target
from clipfleet.retrieval.certificate.recall import provable
from clipfleet.retrieval.certificate.sample import QUERIES
from clipfleet.retrieval.index.parameters import SearchParameters, Structure

_MOST_BITS = 4


def too_few_queries(kind: QueryKind, queries: int, target: Target) -> str:
    """Return the message for queries that cannot prove the recall, whatever is found."""
    remedy = (
        "use --kind exact in a new folder"
        if kind == "held-out" or queries == QUERIES
        else f"name a dataset of {QUERIES:,} vectors or more with --queries"
    )
    return (
        f"{queries:,} {kind} queries cannot prove --min-recall {target.min_recall:g}, even if all "
        f"is found: {remedy}, or set --min-recall {_rounded_down(provable(queries))}"
    )


def out_of_reach(steps: Sequence[Step], structure: Structure, target: Target) -> str:
    """Return the message for an index of which no parameters reach the recall."""
    best = max(steps, key=lambda step: step.recall.low)
    lower = _rounded_down(best.recall.low)
    more_bits = f"--bits {2 * structure.bits}, or " if 2 * structure.bits <= _MOST_BITS else ""
    return (
        f"recall@10 of the {best.hardest} queries is {_share(best)}, below --min-recall "
        f"{target.min_recall:g}; this is the best of {len(steps)} settings, with "
        f"{_setting(best.parameters)} of {structure.lists:,} lists. What would reach more: "
        f"{more_bits}--kind exact, in a new folder; or --min-recall {lower}"
    )


def too_slow(steps: Sequence[Step], reached: Step, structure: Structure, target: Target) -> str:
    """Return the message for an index that reaches the recall, but takes too long."""
    limit_ms = target.max_latency_ms or 0.0
    is_exact = structure.kind == "exact"
    fast = [step for step in steps if step.latency.p95_ms <= limit_ms]
    best = max(fast, key=lambda step: step.recall.low, default=None)
    less = (
        f"--min-recall {_rounded_down(best.recall.low)}, which {_setting(best.parameters)} reaches "
        f"in {best.latency.p95_ms:.2f} ms; "
        if best
        else ""
    )
    faster = "--kind ivf-rabitq" if is_exact else f"--lists {2 * structure.lists}"
    return (
        f"a search takes {reached.latency.p95_ms:.2f} ms (p95, one thread) with "
        f"{_setting(reached.parameters)}, above --max-latency-ms {limit_ms:g}"
        + ("" if is_exact else f"; fewer probes do not reach --min-recall {target.min_recall:g}")
        + ". What would do: "
        f"--max-latency-ms {math.ceil(reached.latency.p95_ms * 10) / 10:g}; {less}"
        f"or try {faster} in a new folder"
    )


def not_exact(step: Step) -> str:
    """Return the message for an exact index that does not find everything."""
    return (
        f"an exact index found only {_share(step)} of the nearest rows of the "
        f"{step.hardest} queries: its codes are not those of its vectors; build "
        "it again in another folder"
    )


def _setting(parameters: SearchParameters) -> str:
    if not parameters.probes:
        return "an exact search"
    return f"{parameters.probes:,} probes and re-ranking × {parameters.rerank}"


def _share(step: Step) -> str:
    return f"{step.recall.mean:.4f} (lower 95 % bound {step.recall.low:.4f})"


def _rounded_down(bound: float) -> str:
    return f"{math.floor(bound * 1000) / 1000:g}"

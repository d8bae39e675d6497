"""The report of an index: one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from clipfleet.retrieval.certificate.certificate import (
    CUTOFFS,
    KIND_NAMES,
    TOWER_NAMES,
    Certificate,
    Interval,
    Recall,
)
from clipfleet.retrieval.certificate.plots import found_of_ten, recall_by_probes
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.retrieval.pages.page import bullets, document, facts, figure, table
from clipfleet.storage.format.dataset import describe


def report(card: IndexCard, certificate: Certificate) -> str:
    """Return the page: what the index can do, what it cannot, and how that was measured."""
    title = f"Index of {card.dataset}"
    return document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="verdict">{_verdict(certificate)}</p>',
            "<h2>What it can do</h2>",
            *bullets(_abilities(certificate)),
            "<h2>What it cannot do</h2>",
            f'<div class="verdict cannot">{"".join(bullets(_limits(certificate)))}</div>',
            "<h2>Recall against exact search</h2>",
            *_recall_table(certificate.recalls),
            *_plots(certificate),
            *_step_table(certificate),
            *_pilot_table(card),
            "<h2>What was measured</h2>",
            *_facts(card, certificate),
        ],
    )


def _verdict(certificate: Certificate) -> str:
    hardest = certificate.hardest
    if not certificate.parameters.probes:
        return "This index is exact: a search compares the query with every vector."
    mean, low = _percent(hardest.deciding.mean), _percent(hardest.deciding.low)
    return (
        f"Of the ten nearest rows, a search finds <strong>{mean}</strong>, and at least "
        f"<strong>{low}</strong> with 95 % confidence, for the hardest queries that were measured "
        f"({KIND_NAMES[hardest.kind]}). {certificate.target.min_recall * 100:g} % was asked."
    )


def _abilities(certificate: Certificate) -> Iterator[str]:
    latency, itself, build = certificate.latency, certificate.itself, certificate.build
    yield (
        f"A search for ten rows takes {latency.p50_ms:.2f} ms (median; p95 "
        f"{latency.p95_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms) on one thread of the machine below."
    )
    yield f"Each of its {certificate.rows:,} ids is there once."
    yield f"Of {itself.rows:,} rows, {itself.found:,} are found by their own vectors."
    yield (
        f"It holds {_per_row(build.memory_bytes, certificate)} bytes a vector in memory, and "
        f"{_per_row(build.disk_bytes, certificate)} on the disk."
    )


def _limits(certificate: Certificate) -> Iterator[str]:
    other = certificate.not_certified
    if other is not None:
        yield (
            f"<strong>Queries by {TOWER_NAMES[other]} are not certified</strong>: none were at "
            "hand. Their recall can be far lower. Build with <code>--queries DATASET</code>, a "
            "dataset of the same checkpoint."
        )
    for recall in certificate.recalls:
        if recall.deciding.mean < 1:
            none = recall.without_hit
            least = f"{none:,} queries find none" if none else "each query finds some"
            yield (
                f"Queries by {KIND_NAMES[recall.kind]} do not fare alike: the worst 5 % of "
                f"{recall.queries:,} find {_percent(recall.worst)} of their ten nearest rows; "
                f"{least}."
            )
    yield (
        "Recall compares with exact search over the same vectors. It does not say whether the "
        "model's nearest rows are what a person looks for: <code>clipfleet evaluate</code> does."
    )
    yield (
        "The times are those of vectors that are in memory already. The first searches read from "
        "the disk, and take longer."
    )


def _recall_table(recalls: Sequence[Recall]) -> Iterator[str]:
    rows = [
        [
            _key(number) + escape(KIND_NAMES[recall.kind]),
            f"{recall.queries:,}",
            *(_interval(interval) for interval in recall.at),
            f"{recall.worst:.3f}",
            f"{recall.without_hit:,}",
        ]
        for number, recall in enumerate(recalls)
    ]
    yield from table(
        "Means over the queries, with 95 % confidence intervals",
        [
            "queries by",
            "number",
            *(f"recall@{k}" for k in CUTOFFS),
            "recall@10, worst 5 %",
            "without a hit",
        ],
        rows,
    )


def _plots(certificate: Certificate) -> Iterator[str]:
    legend = (_key(n) + escape(KIND_NAMES[one.kind]) for n, one in enumerate(certificate.recalls))
    yield f'<p class="caption">Queries by {" ".join(legend)}</p><div class="plots">'
    yield from figure(
        found_of_ten(certificate.recalls),
        "Share of the queries by how many of their ten nearest rows were found.",
    )
    if certificate.parameters.probes:
        yield from figure(
            recall_by_probes(certificate),
            "Recall@10 by the number of lists that are read. Each dot is a setting that was tried, "
            "with its interval; the ring is the one that was chosen, and the dashed line is the "
            "recall that was asked.",
        )
    yield "</div>"


def _step_table(certificate: Certificate) -> Iterator[str]:
    if not certificate.parameters.probes:
        return
    kinds = [recall.kind for recall in certificate.recalls]
    rows = [
        [
            f"{step.parameters.probes:,}",
            f"{step.parameters.rerank}",
            *(_interval(step.recalls[kind]) for kind in kinds),
            f"{step.latency.p95_ms:.2f}",
            "chosen" if step.parameters == certificate.parameters else "",
        ]
        for step in certificate.steps
    ]
    headings = ["probes", "re-ranking", *(f"recall@10, {KIND_NAMES[kind]}" for kind in kinds)]
    yield "<h2>Settings that were tried</h2>"
    yield from table("In the order of the trials", [*headings, "p95, ms", ""], rows)


def _pilot_table(card: IndexCard) -> Iterator[str]:
    if card.pilot is None:
        return
    chosen = (card.structure.bits, card.structure.lists)
    rows = [
        [
            f"{trial.bits}",
            f"{trial.lists:,}",
            f"{trial.parameters.probes:,}",
            f"{trial.parameters.rerank}",
            f"{trial.recall:.3f}",
            f"{trial.cpu_ms:.2f}",
            "chosen" if (trial.bits, trial.lists) == chosen else "",
        ]
        for trial in card.pilot.trials
    ]
    yield "<h2>Bits and lists that were tried</h2>"
    yield f"<p>{escape(card.pilot.line())}. Each vector of the "
    yield f"sample stood {card.pilot.copies} times, so that lists were as long as here.</p>"
    yield from table(
        "Each with the cheapest setting that reaches the recall, or else the best",
        [
            "bits",
            "lists",
            "probes",
            "re-ranking",
            "recall@10, hardest queries",
            "median CPU time, ms",
            "",
        ],
        rows,
    )


def _facts(card: IndexCard, certificate: Certificate) -> Iterator[str]:
    structure, machine, build = card.structure, certificate.machine, certificate.build
    probes, rerank = certificate.parameters.probes, certificate.parameters.rerank
    is_exact = structure.kind == "exact"
    codes = f"{structure.lists:,} lists, {structure.bits} bits a dimension"
    named = {
        "dataset": card.dataset,
        "model": describe(card.model),
        "rows": f"{certificate.rows:,}, {card.dim} wide",
        "kind": "exact" if is_exact else f"{structure.kind}: {codes}",
        "search": "all rows" if is_exact else f"{probes:,} probes, re-ranking × {rerank}",
        "other queries": certificate.queries or "none",
        "sample": f"at most 1,000 queries of a kind, seed {certificate.seed}",
        "built in": f"{build.seconds:,.1f} s",
        "machine": f"{machine.cpu}, {machine.cores} cores, FAISS {machine.faiss}",
        "measured at": certificate.created_at,
    }
    yield from facts({name: escape(value) for name, value in named.items()})


def _percent(share: float) -> str:
    return f"{share * 100:.1f}\N{NO-BREAK SPACE}%"


def _key(number: int) -> str:
    return f'<span class="key {"abc"[number]}"></span>'


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _per_row(size_bytes: int, certificate: Certificate) -> str:
    return f"{size_bytes / certificate.rows:,.0f}"

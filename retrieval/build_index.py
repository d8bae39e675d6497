"""An index is built, or gains what its dataset gained, and is certified before it is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipfleet.errors import UsageError
from clipfleet.reader import Dataset as Vectors
from clipfleet.retrieval.certificate.at_hand import queries_at_hand
from clipfleet.retrieval.certificate.certificate import Target
from clipfleet.retrieval.certificate.certified import certified, is_certified
from clipfleet.retrieval.faiss_library import load_faiss
from clipfleet.retrieval.index.build import (
    BuildShards,
    Choice,
    Show,
    build,
    build_here,
)
from clipfleet.retrieval.index.card import (
    CANDIDATE_NAME,
    CARD_NAME,
    IndexCard,
    IndexedPart,
    check_comparable,
    read_card,
)
from clipfleet.retrieval.index.folder import index_folder, lock, publish
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.parameters import BuildOptions, IndexKind, Structure
from clipfleet.retrieval.pilot.run import run_pilot
from clipfleet.retrieval.threads import threads_of
from clipfleet.settings import Settings, load_settings
from clipfleet.storage.format.dataset import Dataset

MAX_MEMORY_GIB = 4.0
MIN_RECALL = 0.95
SHARD_ROWS = 131_072


def build_index(
    dataset: str | Path,
    out: str | Path,
    *,
    append: bool = False,
    kind: IndexKind | None = None,
    lists: int | None = None,
    bits: int | None = None,
    seed: int = 0,
    max_memory_gib: float = MAX_MEMORY_GIB,
    shard_rows: int = SHARD_ROWS,
    min_recall: float = MIN_RECALL,
    max_latency_ms: float | None = None,
    queries: str | Path | None = None,
    build_shards: BuildShards = build_here,
    settings: Settings | None = None,
    on_progress: Show | None = None,
) -> IndexCard:
    """Build the index of a dataset in a folder, or let it gain what the dataset gained.

    Up to 200,000 vectors the index is exact; above, lists of RaBitQ codes find candidates, which
    are compared exactly. The same call goes on with a build that was killed. If nothing changed
    since the last call, the index stays as it is.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        out: The folder of the index, new or begun.
        append: Add the parts that the dataset gained to an index, and remove those that it lost.
        kind: The kind of the index, `exact` or `ivf-rabitq`, if size and memory do not choose it.
        lists: The number of lists; by default 1, 2, 4 or, with `max_latency_ms`, 8 √n, as a pilot
            finds.
        bits: Bits a dimension of the codes, 1 to 4; by default 1, 2 or 4, as a pilot finds.
        seed: Chooses the vectors that train the lists.
        max_memory_gib: The memory that building and searching may take, in GiB.
        shard_rows: Vectors of a shard, rounded up to whole parts. Smaller shards lose less work if
            a build is killed, and spread over more workers; larger ones make fewer files.
        min_recall: What the lower 95 % bound of recall@10 must reach; it chooses the parameters of
            searches. An exact index finds everything.
        max_latency_ms: What the p95 of a search for ten rows must not exceed, in milliseconds.
        queries: A dataset of the other tower, of the same checkpoint, whose vectors are queries of
            the certificate. By default the largest one beside the dataset.
        build_shards: What builds the shards: this process, or the workers of a fleet
            (`clipfleet.FleetBuild`).
        settings: Without them, those of `load_settings()`.
        on_progress: Called with what is done, and so many of so many vectors.

    Raises:
        UsageError: The options do not go together, or do not fit the index; or another process
            builds it.
        RecallError: The index does not reach the recall or the latency. What was built is kept for
            the next call.
        DatasetError: There is no dataset, it has no vectors, or a part is damaged; or a file of the
            index is missing or damaged.
        DependencyError: FAISS is not installed.
        StorageError: A disk or the object store does not answer, or refuses a write.
    """
    if not 0 <= min_recall <= 1:
        raise UsageError(f"min_recall is {min_recall:g}: it is a share of the neighbours, 0 to 1")
    settings = settings or load_settings()
    target = Target(min_recall=min_recall, max_latency_ms=max_latency_ms)
    asked = None if queries is None else Vectors(queries, settings=settings)
    load_faiss()  # before its threads are limited
    stored = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
    folder = index_folder(out)
    options = BuildOptions(
        kind=kind,
        lists=lists,
        bits=bits,
        seed=seed,
        fast=max_latency_ms is not None,
        max_memory_gib=max_memory_gib,
        shard_rows=shard_rows,
    )
    if asked is not None:
        check_comparable(f"the dataset {stored.root}", stored.info.card, "the queries", asked.model)

    def pilot(
        dataset: Dataset,
        parts: Sequence[IndexedPart],
        structures: Sequence[Structure],
        *,
        show: Show,
    ) -> Choice:
        found = asked or queries_at_hand(dataset.root, dataset.info.card, target, settings=settings)
        return run_pilot(
            dataset, parts, structures, min_recall=min_recall, queries=found, show=show
        )

    with lock(folder), threads_of(settings):
        built = build(
            stored,
            folder,
            options,
            append=append,
            run_pilot=pilot,
            build_shards=build_shards,
            show=on_progress or _show_nothing,
        )
        card = built or read_card(folder)
        assert card is not None  # noqa: S101 - `build` lacks nothing only where there is a card
        name = CANDIDATE_NAME if built else CARD_NAME
        with Index.open(folder, card_name=name) as index:  # its files are there
            if built is None and is_certified(card, target, asked):
                return card
            card = certified(index, target=target, queries=asked, settings=settings)
        publish(folder, card)
    return card


def _show_nothing(what: str, done: int, whole: int) -> None:
    """Show no progress."""

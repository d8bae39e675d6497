"""An index that was built is measured, and gets its certificate and its report."""

from __future__ import annotations

from dataclasses import replace

from clipfleet.engine_files import sha256_of
from clipfleet.errors import DatasetError, RecallError
from clipfleet.reader import Dataset
from clipfleet.retrieval.certificate.at_hand import queries_at_hand
from clipfleet.retrieval.certificate.certificate import (
    Build,
    Certificate,
    Target,
    parse_certificate,
)
from clipfleet.retrieval.certificate.certify import certify
from clipfleet.retrieval.certificate.ids import doubled_ids
from clipfleet.retrieval.certificate.report import report
from clipfleet.retrieval.index.card import IndexCard
from clipfleet.retrieval.index.folder import (
    ITEMS_NAME,
    RECORD_NAME,
    REPORT_NAME,
    VECTORS_NAME,
    shard_folder,
    write_text,
)
from clipfleet.retrieval.index.index import Index
from clipfleet.retrieval.index.parameters import Pilot
from clipfleet.settings import Settings


def certified(
    index: Index, *, target: Target, queries: Dataset | None, settings: Settings
) -> IndexCard:
    """Return an index's card with a certificate, and the parameters that reach the target.

    The report is written beside the card, which the caller publishes. Without `queries`, those of
    `queries_at_hand` are used.

    Raises:
        RecallError: Nothing reaches the target; the message says what would.
        DatasetError: An id is in the index twice.
        StorageError: The temporary folder is full.
        DatasetError: A part of the queries' dataset is damaged, or was moved away or replaced.
        DependencyError: FAISS is not installed.
    """
    card = index.card
    _check_ids(index)
    if queries is None:
        to_prove = None if card.kind == "exact" else target
        queries = queries_at_hand(card.dataset, card.model, to_prove, settings=settings)
    try:
        certificate = certify(
            index,
            tower=card.model.tower,
            structure=card.structure,
            target=target,
            build=_build(index),
            queries=queries,
            seed=card.structure.seed,
        )
    except RecallError as error:
        if card.pilot is None:
            raise
        raise RecallError(f"{error}. {_seen(card.pilot)}") from error
    made = replace(card, parameters=certificate.parameters, certificate=certificate.to_json())
    write_text(index.path, REPORT_NAME, report(made, certificate))
    return made


def certificate_of(card: IndexCard) -> Certificate | None:
    """Return the certificate in a card; None if the index was not measured.

    Raises:
        DatasetError: It does not fit the schema.
    """
    if card.certificate is None:
        return None
    return parse_certificate(card.certificate, origin=f"the index of {card.dataset}")


def is_certified(card: IndexCard, target: Target, queries: Dataset | None) -> bool:
    """Return whether a card has a certificate of this target, by these queries if any are named."""
    certificate = certificate_of(card)
    return (
        certificate is not None
        and certificate.rows == card.alive_rows
        and certificate.target == target
        and (queries is None or certificate.queries == queries.path)
    )


def _check_ids(index: Index) -> None:
    count, first = doubled_ids(index)
    if count:
        raise DatasetError(
            f"{count:,} ids are in {index.card.dataset} twice ({', '.join(first)}): `clipfleet "
            "verify` tells why; then build the index again"
        )


def _seen(pilot: Pilot) -> str:
    """Return for the message of an index that fails what its pilot measured."""
    tried = "; ".join(
        f"{trial.bits} bits, {trial.lists:,} lists: {trial.recall:.4f} in {trial.cpu_ms:.2f} ms"
        for trial in pilot.trials
    )
    return f"The pilot, of {pilot.rows:,} vectors, had measured a recall@10 of: {tried}"


def _build(index: Index) -> Build:
    card, folder = index.card, index.path
    files = [folder / name for name in (card.codes, card.trained) if name]
    for shard in card.shards:
        inside = shard_folder(folder, shard.name)
        files += [inside / name for name in (VECTORS_NAME, ITEMS_NAME, RECORD_NAME)]
    return Build(
        seconds=card.seconds,
        memory_bytes=index.memory_bytes,
        disk_bytes=sum(path.stat().st_size for path in files),
        codes_sha256=sha256_of(folder / card.codes) if card.codes else None,
    )

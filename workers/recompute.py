"""Recomputing: a sample of a dataset's vectors is computed again, and compared."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.items import Item
from clipfleet.storage.format.dataset import Dataset, part_names
from clipfleet.storage.format.parquet import (
    PARQUET_ERRORS,
    open_parquet,
    parquet_error,
    read_row_groups,
)
from clipfleet.storage.format.parts import norms, part_path, part_remedy, value_column
from clipfleet.storage.verify.verification import DIFFERENT, SHOWN, Verification
from clipfleet.workers.embedder import Embedder

MIN_COSINE = 0.999  # of a vector with itself on another engine of the same model

_RUN_ITEMS = 256  # that are embedded at once
_DIGESTS = 2**64  # digests are below this

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    item: Item
    vector: Vectors  # (D,)
    part: str


def recompute(
    dataset: Dataset, embedder: Embedder, fraction: float, verification: Verification
) -> None:
    """Compute a fraction of a dataset's vectors again, and add what differs to `verification`.

    A digest of its id says whether a row is in the sample, so the sample is always the same. It has
    at least one row. Damaged parts are left out.

    Raises:
        DatasetError: A part is damaged, or the model is not the dataset's.
        EngineError: The engine failed.
        StorageError: A file system did not answer.
    """
    dataset.check_model(embedder.card)
    dataset.check_decode(embedder.settings.decode)
    different: list[str] = []
    with closing(_sample(dataset, fraction, verification.damaged)) as rows:
        while run := list(islice(rows, _RUN_ITEMS)):
            different += _compare(dataset, embedder, run, verification)
    if different:
        more = ", …" if len(different) > SHOWN else ""
        shown = ", ".join(different[:SHOWN])
        verification.problems.append(f"{len(different)} {DIFFERENT}: {shown}{more}")
        verification.by_hand.append(verification.problems[-1])


def _compare(
    dataset: Dataset, embedder: Embedder, run: list[_Row], verification: Verification
) -> Iterator[str]:
    """Yield the rows whose vectors differ, in words."""
    embedded = embedder.embed([row.item for row in run], rules=dataset.info.rules)
    verification.not_recomputed += len(embedded.failures)
    verification.recomputed += len(embedded.items)
    vectors = embedded.vectors.astype(dataset.info.embedding_dtype)
    rows = {row.item.id: row for row in run}
    for item, vector in zip(embedded.items, vectors, strict=True):
        row = rows[item.id]
        if vector.tobytes() == row.vector.tobytes():
            verification.bit_equal += 1
            continue
        pair = np.stack([vector, row.vector]).astype(np.float32)
        cosine = float(pair[0] @ pair[1] / np.prod(norms(pair)))
        if not cosine >= MIN_COSINE:  # NaN differs too
            yield f"{item.id!r} (cosine {cosine:.4f}, in {row.part})"


def _sample(
    dataset: Dataset, fraction: float, damaged: Collection[str]
) -> Generator[_Row, None, None]:
    """Yield the rows of the sample, part by part; of the first part with rows at least one."""
    limit = fraction * _DIGESTS
    is_empty = True
    for name in sorted(part_names(dataset.fs).difference(damaged)):
        for ids, values, vectors in _read(dataset, name):
            digests = [_digest(id_) for id_ in ids]
            if is_empty:
                limit, wanted = max(limit, min(digests) + 1), limit
            for n in (n for n, digest in enumerate(digests) if digest < limit):
                item = Item(id=ids[n], **{value_column(dataset.info.tower): values[n]})
                yield _Row(item=item, vector=vectors[n], part=name)
            if is_empty:
                limit, is_empty = wanted, False


def _read(dataset: Dataset, name: str) -> Iterator[tuple[list[str], list[str], Vectors]]:
    """Yield the ids, the uris or texts, and the vectors (k, D) of a part's row groups."""
    path, column = part_path(name), value_column(dataset.info.tower)
    try:
        with dataset.fs.open(path) as file:
            for rows in read_row_groups(open_parquet(file), ["id", column, "embedding"]):
                flat = rows["embedding"].combine_chunks().flatten()
                vectors = flat.to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)
                yield rows["id"].to_pylist(), rows[column].to_pylist(), vectors
    except PARQUET_ERRORS as error:
        raise parquet_error(error, path, remedy=part_remedy(name)) from error


def _digest(id_: str) -> int:
    return int.from_bytes(blake2b(id_.encode(), digest_size=8).digest(), "big")

"""Kinds: a dataset is planned (jobs over sources) or a stream (single items), never both.

`dataset.json` says which. A dataset of an earlier version does not say: what it holds does. It may
hold both; then it takes nothing new, while its shards and retries are still embedded.
"""

from __future__ import annotations

from clipfleet.errors import DatasetKindError
from clipfleet.storage.commit.single_items import has_arrivals
from clipfleet.storage.format.dataset import Dataset, Kind
from clipfleet.storage.jobs.plan_reader import jobs

_PLANNED = (
    "dataset {} is planned: it takes sources (`clipfleet submit`, `clipfleet embed`), no single "
    "items; name another dataset"
)
_STREAM = "dataset {} is a stream: it takes single items, no sources; choose another output folder"
_BOTH = (
    "dataset {} holds planned and single items, of an earlier version: `clipfleet resume` and "
    "`clipfleet retry` finish it, and it takes nothing new; choose another output folder"
)


def check_kind(dataset: Dataset, wanted: Kind) -> None:
    """Refuse a source for a stream, and single items for a planned dataset.

    A dataset of an earlier version that holds nothing takes both.

    Raises:
        DatasetKindError: It is of the other kind, or holds both.
        DatasetError: A job's record or a part is damaged.
    """
    if dataset.info.kind == wanted:
        return
    if dataset.info.kind is None:
        _check_contents(dataset, wanted)
    else:
        told = _PLANNED if dataset.info.kind == "planned" else _STREAM
        raise DatasetKindError(told.format(dataset.root))


def _check_contents(dataset: Dataset, wanted: Kind) -> None:
    planned = any(not job.retry for job in jobs(dataset))  # both kinds have retries
    single = has_arrivals(dataset)
    if planned and single:
        raise DatasetKindError(_BOTH.format(dataset.root))
    if planned and wanted == "stream":
        raise DatasetKindError(_PLANNED.format(dataset.root))
    if single and wanted == "planned":
        raise DatasetKindError(_STREAM.format(dataset.root))

"""The kinds of datasets: planned (jobs over sources) or stream (single items), never both.

`dataset.json` has the kind. A dataset of an earlier version has none there: its contents show it.
If it holds planned and single items, it takes nothing new; its shards and retries are still
embedded.
"""

from __future__ import annotations

from clipfleet.errors import DatasetKindError
from clipfleet.storage.commit.single_items import has_single_items
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.format.dataset_info import Kind
from clipfleet.storage.plan.jobs import jobs

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

    An empty dataset of an earlier version takes both.

    Raises:
        DatasetKindError: The dataset is of the other kind, or holds both.
        DatasetError: A job's record or a part is damaged.
    """
    if dataset.info.kind == wanted:
        return
    if dataset.info.kind is None:
        _check_contents(dataset, wanted)
    else:
        message = _PLANNED if dataset.info.kind == "planned" else _STREAM
        raise DatasetKindError(message.format(dataset.root))


def _check_contents(dataset: Dataset, wanted: Kind) -> None:
    planned = any(not job.retry for job in jobs(dataset))  # datasets of both kinds have retries
    single = has_single_items(dataset)
    if planned and single:
        raise DatasetKindError(_BOTH.format(dataset.root))
    if planned and wanted == "stream":
        raise DatasetKindError(_PLANNED.format(dataset.root))
    if single and wanted == "planned":
        raise DatasetKindError(_STREAM.format(dataset.root))

"""What people look at: the fleet, and the report of a dataset.

Without `settings`, those of `clipfleet.load_settings()` are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipfleet.settings import Settings, load_settings

if TYPE_CHECKING:
    from clipfleet.tasks.status.fleet import Fleet


def fleet(*, settings: Settings | None = None) -> Fleet:
    """Return the fleet of a Redis: its living workers, and the messages in its queues.

    `refresh()` of the result asks Redis again. A worker is known from its first second on, and for
    ten seconds after it was killed.

    Raises:
        BrokerError: Redis does not answer.
    """
    from clipfleet.tasks.status.fleet import read_fleet

    return read_fleet(settings or load_settings())


def write_report(
    dataset: str | Path, out: str | Path | None = None, *, settings: Settings | None = None
) -> str:
    """Write the report of a dataset, one HTML page, and return its path or URL.

    It tells how much was embedded and how fast, what failed and was left out, by which model and
    machines. The page needs no other file and no network. Only records, footers of parts with
    failures, and a few pictures are read; pictures at URLs are not fetched.

    Args:
        dataset: The dataset's folder, or `s3://bucket/prefix`.
        out: The page's file; without it, `report.html` in the dataset. An older page is replaced.
        settings: Without them, those of `load_settings()`.

    Raises:
        DatasetError: There is no dataset, or a record or a part is damaged.
        StorageError: The page cannot be written.
    """
    from clipfleet.storage.format.dataset import Dataset
    from clipfleet.tasks.report.write import write_report

    settings = settings or load_settings()
    opened = Dataset.open(str(dataset), store_timeout_s=settings.store_timeout_s)
    return write_report(opened, Path(out) if out is not None else None, settings=settings)

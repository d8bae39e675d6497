"""Write the report of a dataset."""

from __future__ import annotations

from pathlib import Path

from clipfleet.atomic_write import atomic_write
from clipfleet.errors import StorageError
from clipfleet.settings import Settings
from clipfleet.storage.format.dataset import REPORT_PATH, Dataset
from clipfleet.tasks.report.facts import read_facts
from clipfleet.tasks.report.page import report_page
from clipfleet.workers.images.decode import ImageLimits
from clipfleet.workers.picture_files import PictureFiles


def write_report(dataset: Dataset, out: Path | None, *, settings: Settings) -> str:
    """Write the report to `out`, or into the dataset; return its path or URL.

    Raises:
        DatasetError: A record or a part of the dataset is damaged.
        StorageError: The page cannot be written.
    """
    files = PictureFiles(ImageLimits.from_settings(settings))  # which refuse URLs
    page = report_page(read_facts(dataset), files.small).encode()
    if out is None:
        dataset.fs.replace(REPORT_PATH, page)
        return f"{dataset.root}/{REPORT_PATH}"
    try:
        with atomic_write(out) as part:
            part.write_bytes(page)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
    return str(out)

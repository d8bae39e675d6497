"""Errors tables: written from the footers of parts, without what a retry's part has."""

from __future__ import annotations

from storage.dataset import Dataset
from storage.parts import Footer, errors_bytes, errors_path, part_path, read_footer
from storage.retries import job_of, superseded


def write_errors(dataset: Dataset, footer: Footer) -> None:
    """Write the errors table of a part, or remove it if no failure of it stands.

    Several may do this at once, and a retry's part may appear meanwhile: so it looks again
    after it wrote. One that is killed before it does may leave rows that newer parts have;
    readers know them by that (docs/reference/dataset-format.md).
    """
    ids = {failure.item.id for failure in footer.failures}
    known: set[str] | None = None
    while (newer := superseded(dataset, ids, after=job_of(footer.shard))) != known:
        known = newer
        standing = [failure for failure in footer.failures if failure.item.id not in newer]
        if standing:
            data = errors_bytes(standing, dataset.info.tower)
            dataset.fs.replace(errors_path(footer.shard), data)
        else:  # or it is an earlier part's, which somebody deleted
            dataset.fs.delete(errors_path(footer.shard))


def trim_errors(dataset: Dataset, name: str) -> None:
    """Take out of a part's errors table what a retry's part has; nothing if the part is gone.

    Raises:
        DatasetError: The part is damaged.
    """
    try:
        file = dataset.fs.open(part_path(name))
    except FileNotFoundError:
        return
    with file:
        footer = read_footer(file, path=part_path(name))
    write_errors(dataset, footer)

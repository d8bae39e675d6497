"""A sample of the user's own items: the beginning of a source."""

from __future__ import annotations

from itertools import islice

from clipfleet.architectures import Tower
from clipfleet.errors import UsageError
from clipfleet.items import Item
from clipfleet.storage.sources.open_source import open_source
from clipfleet.storage.sources.tower import tower_of

MIN_SAMPLE = 100  # items: of fewer, the nearest neighbours are many of all
MAX_SAMPLE = 1000  # items


def read_sample(location: str) -> tuple[Tower, list[Item]]:
    """Return the tower of a folder's or a table's items, and the first 1,000 of them.

    Raises:
        SourceError: It is no source, or may hold images or texts.
        UsageError: It holds fewer than 100 items.
    """
    tower = tower_of(location)
    items = list(islice(open_source(location, tower=tower), MAX_SAMPLE))
    if len(items) < MIN_SAMPLE:
        raise UsageError(
            f"the sample {location} has {len(items)} items: give at least {MIN_SAMPLE}, or the "
            "overlap of neighbours says little"
        )
    return tower, items

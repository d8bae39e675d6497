"""The URLs of a source are counted: a producer cannot know the hosts that a fleet allows."""

from __future__ import annotations

from collections.abc import Iterator

from clipfleet.items import Item
from clipfleet.storage.filesystem.members import is_web_uri
from clipfleet.storage.sources.base import DerivedSource


class CountedUrls(DerivedSource):
    """The images of a source; after an iteration, `urls` of them were URLs."""

    urls = 0

    def __iter__(self) -> Iterator[Item]:
        self.urls = 0
        for item in self.source:
            self.urls += item.uri is not None and is_web_uri(item.uri)
            yield item

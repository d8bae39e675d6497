"""A source whose URLs this machine's workers could not fetch is refused before it is planned."""

from __future__ import annotations

from collections.abc import Iterator

from clipfleet.errors import SourceError
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.members import is_web_uri
from clipfleet.storage.sources.base import DerivedSource, Source
from clipfleet.validation import shortened

_SHOWN_LENGTH = 200  # characters of a URL


class WithoutUrls(DerivedSource):
    """A source that yields the items of another one, and refuses the first URL."""

    def __iter__(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            SourceError: An item is a URL, or the other source cannot be read.
        """
        for item in self.source:
            if item.uri and is_web_uri(item.uri):
                raise SourceError(
                    f"item {item.id!r} is the URL {shortened(item.uri, _SHOWN_LENGTH)}, and no "
                    "host is allowed: name the hosts to fetch from with --url-host, or in "
                    "CLIPFLEET_URL_HOSTS or CLIPFLEET_URL_PRIVATE_HOSTS; nothing was planned"
                )
            yield item


def fetchable(source: Source, settings: Settings) -> Source:
    """Return the source; without allowed hosts, one that refuses URLs."""
    if settings.url_hosts or settings.url_private_hosts:
        return source
    return WithoutUrls(source)

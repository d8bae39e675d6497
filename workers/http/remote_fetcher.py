"""One attempt to fetch the bytes of a remote uri: from an allowed host, or from a store."""

from __future__ import annotations

import errno
from functools import partial

from clipfleet.error_codes import READ_FAILED, TOO_LARGE
from clipfleet.settings import Settings
from clipfleet.storage.filesystem.members import Member, parse_member
from clipfleet.storage.filesystem.remote import real_location
from clipfleet.workers.http.fetcher import Fetcher, FetchLimits, Room
from clipfleet.workers.http.object_fetcher import ObjectFetcher
from clipfleet.workers.http.policy import UrlPolicy
from clipfleet.workers.http.web_file import open_web_file
from clipfleet.workers.images.members import read_in_order, read_range
from clipfleet.workers.images.read import is_http_url, is_in_order
from clipfleet.workers.item_errors import item_error, shown


class RemoteFetcher:
    """Fetches from the allowed hosts, and from stores below the input roots; thread-safe."""

    def __init__(self, web: Fetcher, stores: ObjectFetcher, *, max_bytes: int) -> None:
        self._web = web
        self._stores = stores
        self._max_bytes = max_bytes

    @classmethod
    def from_settings(cls, settings: Settings) -> RemoteFetcher:
        limits = FetchLimits.from_settings(settings)
        web = Fetcher(
            UrlPolicy.from_settings(settings), limits, idle_connections=settings.url_threads
        )
        roots = tuple(map(real_location, settings.input_roots))
        return cls(web, ObjectFetcher(limits, roots), max_bytes=limits.max_bytes)

    def fetch(self, uri: str, room: Room = lambda _: 0.0) -> bytes:
        """Return the bytes at a remote uri.

        Raises:
            ItemError: It is refused or was not fetched; the code says if that is transient.
            StorageError: This process has no file descriptor or memory left.
        """
        if is_http_url(uri):
            return self._web.fetch(uri, room)
        member = _parsed(uri)
        if member is not None and is_http_url(member.path):
            return self._web_member(member, room)
        return self._stores.fetch(uri, room)

    def _web_member(self, member: Member, room: Room) -> bytes:
        def read(offset: int, size: int) -> bytes:
            return self._web.fetch(member.path, room, span=(offset, offset + size))

        try:
            if is_in_order(member.uri):
                opened = partial(open_web_file, self._web, member.path)
                return read_in_order(opened, member, self._max_bytes)
            return read_range(read, member, self._max_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            reason = f"{error.strerror} by max_image_bytes"
            raise item_error(TOO_LARGE, f"{shown(member.uri)} cannot be read: {reason}") from error


def _parsed(uri: str) -> Member | None:
    try:
        return parse_member(uri)
    except ValueError as error:
        raise item_error(READ_FAILED, f"{shown(uri)} cannot be read: {error}") from error

"""One attempt to fetch one file of a store, or a member of one: its bytes, or one error."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from clipfleet.error_codes import (
    FETCH_FAILED,
    FETCH_TIMEOUT,
    HTTP_ERROR,
    MISSING,
    NOT_ALLOWED,
    PERMISSION_DENIED,
    READ_FAILED,
    TOO_LARGE,
)
from clipfleet.errors import DependencyError, ItemError, UsageError
from clipfleet.storage.filesystem.members import Member, parse_member
from clipfleet.storage.filesystem.remote import Place, is_below, remote_place
from clipfleet.storage.stores.objects import open_object, stat_of
from clipfleet.storage.stores.open_store import open_store
from clipfleet.workers.http.fetcher import BusyError, FetchLimits, Room
from clipfleet.workers.images.members import read_in_order, read_range
from clipfleet.workers.images.read import ObjectBytes, is_in_order
from clipfleet.workers.item_errors import item_error, shown

if TYPE_CHECKING:
    from obstore.exceptions import BaseError
    from obstore.store import ObjectStore

_CODES = {errno.ENOENT: MISSING, errno.EACCES: PERMISSION_DENIED, errno.EFBIG: TOO_LARGE}
_BUSY = frozenset({408, 425, 429})  # and 5xx
_TIMED_OUT = "timed out"  # in the library's message


class ObjectFetcher:
    """Fetches files of stores, below the input roots if there are any; thread-safe."""

    def __init__(self, limits: FetchLimits, roots: Sequence[str]) -> None:
        self._limits = limits
        self._roots = tuple(roots)

    def fetch(self, uri: str, room: Room = lambda _: 0.0) -> bytes:
        """Return the bytes of a file of a store, or of a member of one.

        Raises:
            ItemError: It is refused or was not fetched; the code says if that is transient.
        """
        try:
            member = parse_member(uri)
            place = remote_place(uri if member is None else member.path)
            self._check_root(place.url, uri)
            if member is None:
                return self._whole(place, room)
            return self._member(place, member, room)
        except (UsageError, ValueError) as error:  # the uri has not the form of its scheme
            raise item_error(READ_FAILED, f"{shown(uri)} cannot be read: {error}") from error
        except DependencyError as error:
            raise item_error(NOT_ALLOWED, str(error)) from error
        except OSError as error:
            raise _os_item_error(uri, error) from error

    def _check_root(self, url: str, uri: str) -> None:
        if self._roots and not any(is_below(url, root) for root in self._roots):
            reason = (
                "it lies below none of this worker's input roots: start the worker with an "
                "--input-root that has it"
            )
            raise item_error(NOT_ALLOWED, f"{shown(uri)} cannot be read: {reason}")

    def _whole(self, place: Place, room: Room) -> bytes:
        import obstore

        store, path = self._store(place)
        with _item_errors(place):
            found = obstore.get(store, path)
            size = found.meta["size"]
            if size > self._limits.max_bytes:
                reason = f"{size} bytes, more than the {self._limits.max_bytes} allowed"
                raise OSError(errno.EFBIG, reason, place.url)
            room(size)
            return ObjectBytes.of(found.bytes().to_bytes(), stat_of(found.meta).mtime_ns)

    def _member(self, place: Place, member: Member, room: Room) -> bytes:
        if is_in_order(member.uri):
            return read_in_order(lambda: open_object(place), member, self._limits.max_bytes)

        def read(offset: int, size: int) -> bytes:
            import obstore

            room(size)
            store, path = self._store(place)
            with _item_errors(place):
                options = {"range": (offset, offset + size)}
                found = obstore.get(store, path, options=options)  # type: ignore[arg-type]
                return found.bytes().to_bytes()

        return read_range(read, member, self._limits.max_bytes)

    def _store(self, place: Place) -> tuple[ObjectStore, str]:
        # Without retries of the library: those of the prefetcher count for the whole store.
        return open_store(place, timeout_s=self._limits.total_timeout_s, retries=0)


@contextmanager
def _item_errors(place: Place) -> Iterator[None]:
    """Raise the errors of a store as those of an item."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise item_error(MISSING, f"{shown(place.url)}: nothing is there") from error
    except BaseError as error:
        raise _store_error(place, error) from error


def _store_error(place: Place, error: BaseError) -> ItemError:
    from clipfleet.storage.filesystem.s3_errors import reason_of, status_of
    from clipfleet.storage.stores.failures import is_denied, rights_advice

    status, message = status_of(error), f"{shown(place.url)} was not fetched: {reason_of(error)}"
    if is_denied(error):
        advice = rights_advice(place.scheme)
        return item_error(PERMISSION_DENIED, f"{shown(place.url)} may not be read: {advice}")
    if status is None:
        return item_error(FETCH_TIMEOUT if _TIMED_OUT in str(error) else FETCH_FAILED, message)
    if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return BusyError(message, None)
    return item_error(MISSING if status == HTTPStatus.NOT_FOUND else HTTP_ERROR, message)


def _os_item_error(uri: str, error: OSError) -> ItemError:
    """Return the error of an item for that of a file."""
    code = _CODES.get(error.errno or 0, FETCH_FAILED)
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        reason += " by max_image_bytes"
    return item_error(code, f"{shown(uri)} cannot be read: {reason}")

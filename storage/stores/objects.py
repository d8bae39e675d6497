"""Remote files: their lists, page by page, and reads of ranges, each repeated after a failure."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S
from clipfleet.storage.filesystem.remote import WEB_SCHEMES, Place
from clipfleet.storage.filesystem.s3_file import ObjectFile
from clipfleet.storage.stores.open_store import check_library, open_store

if TYPE_CHECKING:
    from obstore import ObjectMeta

_PAGE_KEYS = 1000
_BUFFER_BYTES = 1 << 20  # of one request, when a file is read from its start to its end
_PATIENCE_S = 2 * STORE_TIMEOUT_S

T = TypeVar("T")


def keys_below(place: Place) -> Iterator[str]:
    """Yield the paths below a folder of all files in it, in the store's order, page by page.

    Those of a web server are percent-encoded.

    Raises:
        OSError: The store does not answer, or refuses.
    """
    if place.scheme in WEB_SCHEMES:
        check_library(place)
        from clipfleet.storage.stores.web_index import web_files

        yield from web_files(place)
        return
    start = len(place.key) + 1 if place.key else 0
    for key in _hub_keys(place) if place.scheme == "hf" else _store_keys(place):
        if len(key) > start:  # consoles mark a folder by an object of its name
            yield key[start:]


def _hub_keys(place: Place) -> Iterator[str]:
    from clipfleet.storage.stores.hub import hub_files

    return hub_files(place)


def _store_keys(place: Place) -> Iterator[str]:
    import obstore

    store, prefix = open_store(place)
    last: str | None = None

    def page() -> list[Any]:
        found = obstore.list(store, prefix or None, offset=last, chunk_size=_PAGE_KEYS)
        return list(next(iter(found), ()))

    while True:
        entries = _repeated(page, place)
        for entry in entries:
            yield entry["path"]
        if len(entries) < _PAGE_KEYS:
            return
        last = entries[-1]["path"]


class FileStat(NamedTuple):
    """The size of a file, and the time of its last change in nanoseconds since 1970.

    The time is 0 if it is not known.
    """

    size_bytes: int
    mtime_ns: int


def stat_object(place: Place) -> FileStat:
    """Return the size and time of a remote file.

    Raises:
        OSError: It is missing, or the store does not answer, or refuses.
    """
    import obstore

    if not place.key:
        raise FileNotFoundError(errno.ENOENT, "a container is no file", place.url)
    store, path = open_store(place)
    return stat_of(_repeated(lambda: obstore.head(store, path), place))


def stat_of(meta: ObjectMeta) -> FileStat:
    """Return the size and time in the answer to a HEAD or a GET, whose times are whole seconds.

    Those of lists may have milliseconds, so that they are other times.
    """
    return FileStat(meta["size"], int(meta["last_modified"].timestamp()) * 1_000_000_000)


def open_object(place: Place) -> BinaryIO:
    """Open a remote file, seekable; another one in its place meanwhile is an error.

    Raises:
        OSError: It is missing, or the store does not answer, or refuses; also of later reads.
    """
    import obstore

    store, path = open_store(place)
    meta = _repeated(lambda: obstore.head(store, path), place)
    etag = meta["e_tag"]

    def fetch(start: int, end: int) -> bytes:
        options: Any = {"range": (start, end)}
        # A server may send an ETag that it does not take back, such as a weak one.
        if etag and not etag.startswith("W/"):
            options["if_match"] = etag
        return obstore.get(store, path, options=options).bytes().to_bytes()

    raw = ObjectFile(meta["size"], lambda *ends: _repeated(lambda: fetch(*ends), place))
    return io.BufferedReader(raw, _BUFFER_BYTES)


def _repeated(call: Callable[[], T], place: Place) -> T:
    from clipfleet.storage.filesystem.repeat import repeated
    from clipfleet.storage.stores.failures import as_os_error

    try:
        return repeated(
            call, patience_s=_PATIENCE_S, failure=lambda error: as_os_error(error, place)
        )
    except FileNotFoundError as error:
        if error.errno:  # a list of a bucket that is none
            raise
        raise FileNotFoundError(errno.ENOENT, "nothing is there", place.url) from error

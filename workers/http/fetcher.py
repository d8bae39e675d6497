"""One attempt to fetch one URL: its bytes, or one error.

Built on http.client, which follows no redirect, reads no proxy from the environment, keeps no
cookie and decompresses nothing. ADR 16 says why not urllib3.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import NamedTuple

from clipfleet import __version__
from clipfleet.error_codes import (
    FETCH_FAILED,
    FETCH_TIMEOUT,
    HTTP_ERROR,
    MISSING,
    PERMISSION_DENIED,
    SERVER_BUSY,
    TOO_LARGE,
)
from clipfleet.errors import ItemError, StorageError
from clipfleet.settings import Settings
from clipfleet.workers.http.connection import CheckedConnection, Deadline, IdleConnections
from clipfleet.workers.http.policy import Target, UrlPolicy
from clipfleet.workers.http.resolve import Resolve
from clipfleet.workers.item_errors import item_error, shown

MAX_REDIRECTS = 5
_PIECE_BYTES = 1 << 16
_SMALL_BODY_BYTES = 1 << 14  # of an error or redirect; read, so that the connection can be kept

_HEADERS = {
    "User-Agent": f"clipfleet/{__version__}",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",  # a compressed body could expand beyond every limit
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429})  # and 5xx
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 403, 407, 451})
# The cause is this machine, not the item: the shard is retried.
_LOCAL_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# The server closed an idle connection. RemoteDisconnected is both of these.
_STALE = (ConnectionError, http.client.BadStatusLine)

# Reserves room for a number of bytes, after a wait if need be; returns the seconds waited.
Room = Callable[[int], float]


class Answer(NamedTuple):
    """What a server sent."""

    body: bytes
    headers: Message


class BusyError(ItemError):
    """A server that is busy; `retry_after_s` is None where the server sends no Retry-After."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(SERVER_BUSY, message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """The limits of one attempt: size and time."""

    max_bytes: int = 256 << 20
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 30.0

    @classmethod
    def from_settings(cls, settings: Settings) -> FetchLimits:
        return cls(
            max_bytes=settings.max_image_bytes,
            connect_timeout_s=settings.url_connect_timeout_s,
            read_timeout_s=settings.url_read_timeout_s,
            total_timeout_s=settings.url_timeout_s,
        )


class Fetcher:
    """Fetches URLs that a policy allows; thread-safe."""

    def __init__(
        self,
        policy: UrlPolicy,
        limits: FetchLimits,
        *,
        idle_connections: int = 64,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._resolve = resolve
        self._idle = IdleConnections(idle_connections)
        self._context = ssl.create_default_context()  # SSL_CERT_FILE names other authorities

    def fetch(
        self, url: str, room: Room = lambda _: 0.0, *, span: tuple[int, int] | None = None
    ) -> bytes:
        """Return the body of a URL, as `ask` does."""
        return self.ask(url, room, span=span).body

    def ask(
        self,
        url: str,
        room: Room = lambda _: 0.0,
        *,
        span: tuple[int, int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer of a URL, after redirects; of its bytes those of `span`, if given.

        Raises:
            ItemError: The URL is refused or was not fetched; the code says if that is transient.
            StorageError: This process has no file descriptor or memory left.
        """
        limits = self._limits
        deadline = Deadline(limits.total_timeout_s, step_s=limits.read_timeout_s)
        try:
            return self._ask(url, deadline, room, span, headers or {})
        except TimeoutError as error:
            reason = str(error) if error.errno is None else error.strerror
            raise item_error(FETCH_TIMEOUT, f"{shown(url)} took too long: {reason}") from error
        except ssl.SSLCertVerificationError as error:
            reason = f"its server's certificate is not trusted: {error.verify_message}"
            raise item_error(HTTP_ERROR, f"{shown(url)}: {reason}") from error
        except http.client.IncompleteRead as error:
            raise _cut_off(url, str(error)) from error
        except OSError as error:
            if error.errno in _LOCAL_ERRORS:
                raise StorageError(
                    f"{shown(url)} cannot be fetched now: {error.strerror}; the limit of open "
                    "files must be above CLIPFLEET_URL_THREADS"
                ) from error
            raise _cut_off(url, error.strerror or str(error)) from error
        # ValueError: http.client raises it for some malformed answers.
        except (http.client.HTTPException, ValueError) as error:
            reason = f"its server does not speak HTTP: {type(error).__name__} {shown(str(error))}"
            raise item_error(HTTP_ERROR, f"{shown(url)}: {reason}") from error

    def _ask(
        self,
        url: str,
        deadline: Deadline,
        room: Room,
        span: tuple[int, int] | None,
        more: Mapping[str, str],
    ) -> Answer:
        target = self._policy.target(url)
        wanted = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
        headers = {**_HEADERS, **more, **(_range(*span) if span else {})}
        for _ in range(MAX_REDIRECTS + 1):
            connection, answer = self._sent(target, deadline, headers)
            try:
                if answer.status == wanted:
                    return Answer(self._body(url, answer, connection, room, span), answer.headers)
                location = answer.headers.get("Location")
                if not (answer.status in _REDIRECTS and location):
                    raise _error(url, answer)
                _read_rest(answer)
            finally:
                self._put_back(connection, answer)
            target = self._policy.redirected(target, _as_text(location))
        raise item_error(HTTP_ERROR, f"{shown(url)} is redirected more than {MAX_REDIRECTS} times")

    def _sent(
        self, target: Target, deadline: Deadline, headers: Mapping[str, str]
    ) -> tuple[CheckedConnection, http.client.HTTPResponse]:
        kept = self._idle.take(target, deadline)
        if kept is not None:
            try:
                return kept, _request(kept, target, headers)
            except _STALE:  # a new connection shows whether the server works
                kept.close()
        connection = CheckedConnection(
            target,
            deadline=deadline,
            connect_timeout_s=self._limits.connect_timeout_s,
            context=self._context,
            resolve=self._resolve,
        )
        return connection, _request(connection, target, headers)

    def _body(
        self,
        url: str,
        answer: http.client.HTTPResponse,
        connection: CheckedConnection,
        room: Room,
        span: tuple[int, int] | None,
    ) -> bytes:
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            reason = f"its server compresses it ({encoding[:20]}) though it was asked not to"
            raise item_error(HTTP_ERROR, f"{shown(url)}: {reason}")
        announced = answer.length
        self._check_size(url, announced or 0, span)
        pieces, size = [], 0
        while piece := answer.read(_PIECE_BYTES):
            size += len(piece)
            self._check_size(url, size, span)  # Content-Length may be wrong
            connection.deadline.extend(room(len(piece)))
            pieces.append(piece)
        if announced is not None and size < announced:
            raise _cut_off(url, f"{size} of {announced} bytes came")
        return b"".join(pieces)

    def _check_size(self, url: str, size: int, span: tuple[int, int] | None) -> None:
        limit, by = self._limits.max_bytes, "allowed by max_image_bytes"
        if span is not None:
            limit, by = span[1] - span[0], "that were asked for"
        if size > limit:
            raise item_error(TOO_LARGE, f"{shown(url)} has more than the {limit} bytes {by}")

    def _put_back(self, connection: CheckedConnection, answer: http.client.HTTPResponse) -> None:
        if answer.isclosed() and connection.sock is not None:  # the body was read to its end
            self._idle.keep(connection)
        else:
            answer.close()
            connection.close()


def _range(start: int, end: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{end - 1}"}


def _request(
    connection: CheckedConnection, target: Target, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    try:
        connection.request("GET", target.path, headers=headers)
        return connection.getresponse()
    except BaseException:
        connection.close()
        raise


def _read_rest(answer: http.client.HTTPResponse) -> None:
    """Read and drop a small body, so that the connection can be reused."""
    with contextlib.suppress(
        OSError, http.client.HTTPException
    ):  # the caller then closes the connection
        answer.read(_SMALL_BODY_BYTES)


def _error(url: str, answer: http.client.HTTPResponse) -> ItemError:
    _read_rest(answer)
    status = answer.status
    message = f"{shown(url)}: its server answers {status} {shown(answer.reason)}"
    if status == HTTPStatus.OK:
        return item_error(HTTP_ERROR, f"{message}, all of the file: it has no ranges; download it")
    if status in _BUSY or status >= 500:
        return BusyError(message, _retry_after_s(answer.headers.get("Retry-After")))
    if status in _GONE:
        return item_error(MISSING, message)
    return item_error(PERMISSION_DENIED if status in _DENIED else HTTP_ERROR, message)


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a Retry-After: a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


def _as_text(header: str) -> str:
    """Decode a header as UTF-8; http.client decoded it as Latin-1."""
    return header.encode("latin-1", "replace").decode(errors="replace")


def _cut_off(url: str, reason: str) -> ItemError:
    return item_error(FETCH_FAILED, f"{shown(url)} was not fetched: {reason}")

"""URLs, and the answers of their servers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote_to_bytes

from clipfleet.hosts import allowed_host
from clipfleet.storage.stores.web_index import listed_names
from clipfleet.workers.http.connection import CheckedConnection
from clipfleet.workers.http.fetcher import Fetcher, FetchLimits
from clipfleet.workers.http.policy import Target as UrlTarget
from clipfleet.workers.http.policy import UrlPolicy
from tests.fuzz.target import Make, Target, rows

_HOSTS = ("images.example.com", "*.cdn.example.com", "other.example.com:8443")
_POLICY = UrlPolicy(
    hosts=tuple(allowed_host(host, wildcards=True) for host in _HOSTS), schemes=("https", "http")
)
_PORTS = {"images.example.com": {80, 443}, "other.example.com": {8443}}
_PUBLIC = "93.184.215.14"
_NEXT = b"\n----\n"  # between the answers of a server
_MAX_BYTES = 4096


def url(folder: Path) -> Target:
    """A URL of an item, and the redirection of its server, on the next line."""

    def run(data: bytes) -> None:
        given, _, location = data.decode(errors="replace").partition("\n")
        origin = _POLICY.target("https://images.example.com/a")
        with rows():
            _check(_POLICY.target(given))
        with rows():
            _check(_POLICY.redirected(origin, location))

    seeds = (
        "https://images.example.com/a.jpg?b=c#d\n/e",
        "http://A.CDN.example.com:80/é\n//images.example.com:443/%0d%0a",
        "https://user@images.example.com\\@127.0.0.1/\nhttp://images.example.com/",
        "https://images。example。com/ \nhttps://other.example.com:8443/..;/",
    )
    return Target(run=run, seeds=tuple(seed.encode() for seed in seeds))


def _check(target: UrlTarget) -> None:
    """Make sure that a URL that is fetched leads where it may, by nothing but plain ASCII."""
    below = target.host.endswith(".cdn.example.com")
    assert below or target.port in _PORTS[target.host], target
    assert target.path.startswith("/"), target
    assert all("!" <= letter <= "~" for letter in target.path), target
    assert not target.private


def answer(folder: Path) -> Target:
    """The answers of a server and, after a redirection, of the next."""
    limits = FetchLimits(
        max_bytes=_MAX_BYTES, connect_timeout_s=1, read_timeout_s=1, total_timeout_s=2
    )
    fetcher = Fetcher(_POLICY, limits, resolve=_resolve)  # one: it reads all authorities

    def run(data: bytes) -> None:
        with _Servers(data.split(_NEXT)) as servers, rows():
            with patch.object(CheckedConnection, "_connected", servers.connected):
                found = fetcher.fetch("http://images.example.com/a.jpg")
            assert len(found) <= _MAX_BYTES

    return Target(run=run, seeds=_ANSWERS)


def _resolve(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (_PUBLIC, 80))]


class _Servers:
    """Servers, one for each connection, that send their answer unasked and close."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._sockets: list[socket.socket] = []

    def connected(self, *_: Any) -> socket.socket:
        """Return our end of the next connection."""
        ours, theirs = socket.socketpair()
        self._sockets.append(theirs)
        theirs.sendall(self._answers.pop(0) if self._answers else b"")  # the buffer has room
        theirs.shutdown(socket.SHUT_WR)
        return ours

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *_: object) -> None:
        for theirs in self._sockets:
            theirs.close()


_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: image/png\r\n\r\nabc",
    (
        b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"
    ),
    b"HTTP/1.1 301 \xff\r\nLocation: http://a.cdn.example.com/\xe9\r\n\r\n"
    + _NEXT
    + b"HTTP/1.0 200\r\n\r\nabc",
    b"HTTP/1.1 503 Busy\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 \x1b[2J\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
)


def index_page(folder: Path) -> Target:
    """The page on which a server lists a folder."""
    root = "https://example.com/photos/"

    def run(data: bytes) -> None:
        for name in listed_names(root, [data]) or ():
            inner = unquote_to_bytes(name.removesuffix("/"))
            assert inner not in (b"", b".", b".."), name
            assert "/" not in name[:-1], name
            assert all("!" <= letter <= "~" for letter in name), name

    seeds = (
        b"<title>Index of /photos/</title><a href='a.jpg'>a</a><a href=\"b%2F&amp;/\">b</a>",
        b"<a href='/photos/%e4%b8%80.png'><a href=..><a href='?C=N;O=D'><!DOCTYPE a [<!--",
        b"<title>\xff</title><a href=//example.com/photos/./x><a href='https://[::1]/'><![if]]>",
    )
    return Target(run=run, seeds=seeds)


WEB_TARGETS: dict[str, Make] = {"url": url, "answer": answer, "index_page": index_page}

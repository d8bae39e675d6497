"""One try to fetch one URL, from a real server that answers well, badly and slowly."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from clipfleet.error_codes import ERROR_CODES, TRANSIENT_CODES
from clipfleet.errors import ItemError, StorageError
from clipfleet.settings import Settings
from clipfleet.workers.http.fetcher import MAX_REDIRECTS, BusyError, Fetcher, FetchLimits
from clipfleet.workers.http.policy import UrlPolicy
from clipfleet.workers.item_errors import MAX_MESSAGE_LENGTH
from tests.web import Handler, Web, make_certificate, redirect, resolver, serve_web, status

BODY = b"picture " * 1000
MAX_BYTES = 100_000


@pytest.fixture
def web() -> Iterator[Web]:
    with serve_web(Web({"/a.jpg": BODY})) as served:
        yield served


def fetcher(web: Web, *, public: bool = False, **changes: Any) -> Fetcher:
    """A fetcher that may fetch from the server by its address and by two names."""
    allowed = tuple(f"{host}:{web.port}" for host in (web.host, "a.example", "b.example"))
    settings = Settings(
        url_hosts=allowed if public else (),
        url_private_hosts=() if public else allowed,
        url_schemes=("https", "http"),
    )
    limits: dict[str, Any] = {
        "max_bytes": MAX_BYTES,
        "read_timeout_s": 60.0,
        "total_timeout_s": 60.0,
    }
    resolve = changes.pop("resolve", socket.getaddrinfo)
    return Fetcher(
        UrlPolicy.from_settings(settings), FetchLimits(**{**limits, **changes}), resolve=resolve
    )


def failure(fetched: Fetcher, url: str) -> ItemError:
    """The error of a URL, whose message must be fit for a table."""
    with pytest.raises(ItemError) as raised:
        fetched.fetch(url)
    message = str(raised.value)
    assert raised.value.code in ERROR_CODES
    assert 0 < len(message) <= MAX_MESSAGE_LENGTH
    assert message.isprintable()
    return raised.value


def test_urls_of_one_origin_share_a_connection(web: Web) -> None:
    client = fetcher(web)
    for path in ("/a.jpg", "/gone", "/a.jpg"):
        if path == "/gone":
            assert failure(client, web.url(path)).code == "missing"
        else:
            assert client.fetch(web.url(path)) == BODY
    assert web.connections == 1


def test_a_request_names_clipfleet_and_nothing_else(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # is not gone to
    fetcher(web).fetch(web.url("/a.jpg"))
    (headers,) = web.headers
    assert set(headers) == {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{web.port}"
    assert headers["User-Agent"].startswith("clipfleet/")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (201, "http_error"),
        (204, "http_error"),
        (206, "http_error"),
        (304, "http_error"),
        (400, "http_error"),
        (401, "permission_denied"),
        (403, "permission_denied"),
        (404, "missing"),
        (408, "server_busy"),
        (410, "missing"),
        (416, "http_error"),
        (425, "server_busy"),
        (429, "server_busy"),
        (451, "permission_denied"),
        (500, "server_busy"),
        (502, "server_busy"),
        (503, "server_busy"),
        (504, "server_busy"),
    ],
)
def test_each_answer_is_of_a_class(web: Web, number: int, code: str) -> None:
    web.pages["/x"] = lambda handler, _: handler.answer(number)
    error = failure(fetcher(web), web.url("/x"))
    assert error.code == code
    assert str(number) in str(error)
    assert (error.code in TRANSIENT_CODES) == (code == "server_busy")


@pytest.mark.parametrize(("header", "low_s", "high_s"), [("7", 7, 7), (" 120 ", 120, 120)])
def test_when_to_come_again_is_read(web: Web, header: str, low_s: float, high_s: float) -> None:
    assert_come_again(web, header, low_s, high_s)


def test_when_to_come_again_may_be_a_date(web: Web) -> None:
    assert_come_again(web, formatdate(time.time() + 100, usegmt=True), 80, 100)


def assert_come_again(web: Web, header: str, low_s: float, high_s: float) -> None:
    web.pages["/x"] = status(503, Retry_After=header)
    error = failure(fetcher(web), web.url("/x"))
    assert isinstance(error, BusyError)
    assert error.retry_after_s is not None
    assert low_s <= error.retry_after_s <= high_s


@pytest.mark.parametrize("header", ["soon", "-1", "", "\xb2", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_when_to_come_again_may_be_nonsense(web: Web, header: str) -> None:
    web.pages["/x"] = status(429, Retry_After=header)
    error = failure(fetcher(web), web.url("/x"))
    assert isinstance(error, BusyError)
    assert error.retry_after_s is None


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirection_is_followed(web: Web, code: int) -> None:
    web.pages["/old"] = redirect("/a.jpg", code)
    assert fetcher(web).fetch(web.url("/old")) == BODY
    assert web.asked == ["/old", "/a.jpg"]


def test_redirections_end(web: Web) -> None:
    web.pages["/loop"] = redirect("/loop")
    error = failure(fetcher(web), web.url("/loop"))
    assert error.code == "http_error"
    assert len(web.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:{port}0/",
        "//evil.example/",
        "http://[::1]:{port}/",
        "http://2130706433:{port}/a.jpg",
        "http://localhost:{port}/a.jpg",
        "http://[::1",
        "//a\xe2\x84\x80b.example/",
    ],
)
def test_a_redirection_to_where_nothing_may_be_fetched_is_not_followed(
    web: Web, location: str
) -> None:
    web.pages["/old"] = redirect(location.format(port=web.port))
    assert failure(fetcher(web), web.url("/old")).code == "not_allowed"
    assert web.asked == ["/old"]


def test_a_redirection_to_a_name_with_a_private_address_is_not_followed(web: Web) -> None:
    """The first host is of one's own; the second is allowed, and must be public."""
    resolve, asked = resolver("127.0.0.1")
    settings = Settings(
        url_private_hosts=(f"a.example:{web.port}",),
        url_hosts=(f"b.example:{web.port}",),
        url_schemes=("http",),
    )
    client = Fetcher(UrlPolicy.from_settings(settings), FetchLimits(), resolve=resolve)
    web.pages["/old"] = redirect(web.url("/a.jpg", "b.example"))
    error = failure(client, web.url("/old", "a.example"))
    assert error.code == "not_allowed"
    assert "b.example may not be fetched from: it leads to 127.0.0.1" in str(error)
    assert asked == ["a.example", "b.example"]
    assert web.asked == ["/old"]


def test_a_name_with_a_private_address_is_not_connected_to(web: Web) -> None:
    resolve, _ = resolver("127.0.0.1")
    client = fetcher(web, public=True, resolve=resolve)
    assert failure(client, web.url("/a.jpg", "a.example")).code == "not_allowed"
    assert web.connections == 0


def test_a_name_is_not_asked_for_twice(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives a public address to the check, and another to the connection."""
    resolve, asked = resolver("8.8.8.8", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # whoever should ask a second time
    connected: list[Any] = []

    class Refusing(socket.socket):
        def connect(self, address: Any) -> None:
            connected.append(address)
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "socket", Refusing)
    client = fetcher(web, public=True, resolve=resolve)
    assert failure(client, web.url("/a.jpg", "a.example")).code == "fetch_failed"
    assert asked == ["a.example"]
    assert connected == [("8.8.8.8", web.port)]
    assert web.connections == 0


def test_the_next_address_is_tried_where_one_does_not_answer(web: Web) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", web.port))  # bound, and not listening: it refuses

        def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

        assert fetcher(web, resolve=resolve).fetch(web.url("/a.jpg", "a.example")) == BODY


def test_a_server_that_is_not_there(web: Web) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        web.port = closed.getsockname()[1]
        error = failure(fetcher(web), web.url("/a.jpg"))
    assert error.code == "fetch_failed"
    assert "Connection refused" in str(error)


def chunked(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for start in range(0, len(BODY), 3000):
        piece = BODY[start : start + 3000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def test_a_body_without_a_length(web: Web) -> None:
    web.pages["/x"] = chunked
    client = fetcher(web)
    assert client.fetch(web.url("/x")) == BODY
    assert client.fetch(web.url("/x")) == BODY
    assert web.connections == 1


def endless(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.web.released.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def test_a_body_without_an_end_is_too_large(web: Web) -> None:
    web.pages["/x"] = endless
    read: list[int] = []

    def room(size_bytes: int) -> float:
        read.append(size_bytes)
        return 0.0

    with pytest.raises(ItemError) as raised:
        fetcher(web).fetch(web.url("/x"), room)
    assert raised.value.code == "too_large"
    assert sum(read) <= MAX_BYTES  # no more was kept


def test_a_length_above_the_limit_is_not_read(web: Web) -> None:
    web.pages["/x"] = lambda handler, _: handler.answer(200, b"", Content_Length=str(10**15))
    error = failure(fetcher(web), web.url("/x"))
    assert error.code == "too_large"
    assert f"{MAX_BYTES} bytes allowed by max_image_bytes" in str(error)


def test_a_length_that_promises_more_than_comes_is_a_connection_cut_off(web: Web) -> None:
    def cut(handler: Handler, _: int) -> None:
        handler.answer(200, b"short", Content_Length="1000")
        handler.close_connection = True

    web.pages["/x"] = cut
    error = failure(fetcher(web), web.url("/x"))
    assert error.code == "fetch_failed"
    assert "5 of 1000 bytes came" in str(error)


def test_a_length_that_promises_less_than_comes_harms_no_other_url(web: Web) -> None:
    web.pages["/x"] = lambda handler, _: handler.answer(200, 10 * BODY, Content_Length="7")
    client = fetcher(web)
    assert client.fetch(web.url("/x")) == BODY[:7]
    assert client.fetch(web.url("/a.jpg")) == BODY
    assert web.connections == 2  # what was left over was not taken for an answer


def test_a_compressed_body_is_refused(web: Web) -> None:
    web.pages["/x"] = lambda handler, _: handler.answer(200, BODY, Content_Encoding="gzip")
    error = failure(fetcher(web), web.url("/x"))
    assert error.code == "http_error"
    assert "compresses it (gzip)" in str(error)


def raw(answer: bytes) -> Callable[[Handler, int], None]:
    def send(handler: Handler, _: int) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    return send


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n", "http_error"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n", "http_error"),
        (b"HTTP/1.1 abc\r\n\r\n", "http_error"),
        (b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", "http_error"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", "http_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nab", "fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc", "http_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-99\r\nabc", "http_error"),
        (b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nab", "missing"),
        (b"HTTP/1.1 302 \xff\x00\r\nLocation: \xff\xfe\r\n\r\n", "missing"),
        (b"HTTP/1.1 404 \xe2\x80\xae\x1b[2J\r\nContent-Length: 0\r\n\r\n", "missing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc", None),
        (b"", "fetch_failed"),
    ],
)
def test_a_malformed_answer_is_an_error(web: Web, answer: bytes, code: str | None) -> None:
    web.pages["/x"] = raw(answer)
    if code is None:
        assert fetcher(web).fetch(web.url("/x")) == b"abc"
    else:
        assert failure(fetcher(web), web.url("/x")).code == code


def drip(handler: Handler, _: int) -> None:
    """A byte now and then, each well within the time for one byte."""
    if handler.path == "/body":
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
    elif handler.path == "/headers":
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not handler.web.released.wait(0.05):
        handler.wfile.write(b"x")


@pytest.mark.parametrize("path", ["/start", "/headers", "/body"])
def test_a_server_that_drips_is_left(web: Web, path: str) -> None:
    web.pages[path] = drip
    error = failure(fetcher(web, total_timeout_s=0.4, read_timeout_s=0.3), web.url(path))
    assert error.code == "fetch_timeout"


def silent(handler: Handler, _: int) -> None:
    handler.web.released.wait()


def test_a_server_that_says_nothing_is_left(web: Web) -> None:
    web.pages["/x"] = silent
    error = failure(fetcher(web, read_timeout_s=0.1), web.url("/x"))
    assert error.code == "fetch_timeout"


def test_the_wait_for_room_is_not_the_servers(web: Web) -> None:
    assert fetcher(web, total_timeout_s=50.0).fetch(web.url("/a.jpg"), lambda _: 100.0) == BODY


def test_no_descriptor_left_is_no_items_fault(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(StorageError, match="above CLIPFLEET_URL_THREADS"):
        fetcher(web).fetch(web.url("/a.jpg"))


def test_a_connection_that_was_closed_meanwhile_is_made_anew(web: Web) -> None:
    served = threading.Event()

    def answer_and_close(handler: Handler, _: int) -> None:
        handler.answer(200, b"once")
        handler.close_connection = True  # without a word about it
        served.set()

    web.pages["/x"] = answer_and_close
    client = fetcher(web)
    assert client.fetch(web.url("/x")) == b"once"
    served.wait()
    assert client.fetch(web.url("/a.jpg")) == BODY
    assert web.connections == 2


def test_a_server_that_closes_each_connection_unannounced_fails_no_fetch(web: Web) -> None:
    """The close often comes between the look at the idle connection and the next request."""

    def answer_and_close(handler: Handler, _: int) -> None:
        handler.answer(200, b"x")
        handler.close_connection = True

    web.pages["/x"] = answer_and_close
    client = fetcher(web)
    assert [client.fetch(web.url("/x")) for _ in range(100)] == [b"x"] * 100


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_certificate(tmp_path_factory.mktemp("tls"), "a.example", "127.0.0.1")
    needs = "openssl is needed"
    if made is None and os.environ.get("CI"):
        pytest.fail(needs)
    return made or pytest.skip(needs)


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.crt"))
    with serve_web(Web({"/a.jpg": BODY}), certificate) as served:
        yield served


def test_tls_is_checked_for_the_name_though_the_address_is_connected_to(secure: Web) -> None:
    resolve, _ = resolver("127.0.0.1")
    client = fetcher(secure, resolve=resolve)
    for host in ("a.example", "A.EXAMPLE.", "127.0.0.1", "a.example"):
        assert client.fetch(secure.url("/a.jpg", host)) == BODY
    assert {h["Host"] for h in secure.headers} == {
        f"{host}:{secure.port}" for host in ("a.example", "127.0.0.1")
    }
    assert secure.connections == 2
    error = failure(client, secure.url("/a.jpg", "b.example"))
    assert error.code == "http_error"
    assert "certificate is not trusted: Hostname mismatch" in str(error)


def test_a_certificate_of_an_unknown_authority_is_refused(
    secure: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    error = failure(fetcher(secure), secure.url("/a.jpg"))
    assert error.code == "http_error"
    assert "certificate is not trusted" in str(error)


def test_tls_is_not_left_by_a_redirection(secure: Web) -> None:
    secure.pages["/old"] = redirect(f"http://127.0.0.1:{secure.port}/a.jpg")
    error = failure(fetcher(secure), secure.url("/old"))
    assert error.code == "http_error"
    assert "not https" in str(error)
    assert secure.asked == ["/old"]


def test_a_server_without_tls_is_no_https_server(web: Web) -> None:
    error = failure(fetcher(web), web.url("/a.jpg").replace("http", "https"))
    assert error.code == "fetch_failed"

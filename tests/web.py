"""A web server on loopback that answers well, badly and slowly, with or without TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any


@dataclass
class Web:
    """The server's answer to each path, and its requests.

    A page is its bytes; or a function, which is given the handler and the number of this
    request for the path, from 1, and answers itself.
    """

    pages: dict[str, bytes | Callable[[Handler, int], None]] = field(default_factory=dict)
    host: str = "127.0.0.1"  # as URLs name it
    port: int = 0
    scheme: str = "http"
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    released: Event = field(default_factory=Event)  # pages that wait, wait for this

    def url(self, path: str, host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.asked)


class Handler(BaseHTTPRequestHandler):
    """Answers for its `web`."""

    web: Web
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.web.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.web.asked.append(self.path)
        self.web.headers.append(dict(self.headers))
        page = self.web.pages.get(self.path)
        if page is None:
            self.answer(404, b"there is nothing")
        elif isinstance(page, bytes):
            self.answer(200, page)
        else:
            page(self, self.web.counts[self.path])

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; `Content_Length` stands for Content-Length."""
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **named}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output quiet."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away: a test wants them."""


def redirect(location: str, status: int = 302) -> Callable[[Handler, int], None]:
    return lambda handler, _: handler.answer(status, b"elsewhere", Location=location)


def status(code: int, **headers: str) -> Callable[[Handler, int], None]:
    return lambda handler, _: handler.answer(code, b"no", **headers)


def after(failures: int, code: int, body: bytes, **headers: str) -> Callable[[Handler, int], None]:
    """A page that is there after some failures."""

    def answer(handler: Handler, number: int) -> None:
        if number <= failures:
            handler.answer(code, b"not now", **headers)
        else:
            handler.answer(200, body)

    return answer


@contextmanager
def serve_web(web: Web, certificate: Path | None = None) -> Iterator[Web]:
    """Serve on loopback; with the folder of `make_certificate`, over TLS."""
    server = _Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"web": web}))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "server.crt", certificate / "server.key")
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        web.scheme = "https"
    web.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path, *names: str) -> Path | None:
    """Make an authority, ca.crt, and a server's certificate for names; None without openssl."""
    if shutil.which("openssl") is None:
        return None
    key = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    alternatives = ",".join(f"{'IP' if n[0].isdigit() else 'DNS'}:{n}" for n in names)
    signed = f"-CA ca.crt -CAkey ca.key -addext subjectAltName={alternatives}"
    no_authority = "-addext basicConstraints=critical,CA:FALSE"
    for command in (
        f"{key} -keyout ca.key -out ca.crt -subj /CN=ca",
        f"{key} -keyout server.key -out server.crt -subj /CN=x {signed} {no_authority}",
    ):
        subprocess.run(
            ["openssl", "req", *command.split()], cwd=folder, check=True, capture_output=True
        )
    return folder


def resolver(
    *answers: str, family: int = socket.AF_INET
) -> tuple[Callable[..., list[tuple[Any, ...]]], list[str]]:
    """Return a stand-in for getaddrinfo and the hosts it was asked for.

    Its first answer is the first address, and so on; the last one stays.
    """
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        kind = socket.AF_INET6 if ":" in address else family
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port))]

    return resolve, asked

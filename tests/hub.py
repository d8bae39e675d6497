"""A stand-in for the Hugging Face hub: HEAD and GET of `resolve`, with ETag, commit and ranges."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from clipfleet.architectures import PublishedCheckpoint

ELSEWHERE = "/store/resolve/0123"


def resolve_path(published: PublishedCheckpoint) -> str:
    return f"/{published.repository}/resolve/main/{published.file}"


@dataclass
class Hub:
    """The content and the requests of the stand-in."""

    path: str
    content: bytes
    etag: str = ""  # the content's SHA-256
    fail_after: int | None = None  # bytes of each answer before the connection is cut
    redirects: bool = False  # large files lie elsewhere, as on the public hub
    stall: bool = False  # then keep the connection open without sending
    stalled: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def __post_init__(self) -> None:
        self.etag = self.etag or hashlib.sha256(self.content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        asked = self.headers.get("Range")
        if "/resolve/" in self.path:  # the client also asks about itself
            self.hub.requests.append((self.command, asked))
        if self.path not in (self.hub.path, ELSEWHERE):
            self.send_error(404)
            return
        if self.hub.redirects and self.path == self.hub.path:
            self.send_response(302)
            other_host = self.hub.endpoint.replace("127.0.0.1", "localhost")
            self.send_header("Location", f"{other_host}{ELSEWHERE}")
            self.send_header("X-Linked-Etag", f'"{self.hub.etag}"')
            self.send_header("X-Linked-Size", str(len(self.hub.content)))
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        rest = self.hub.content[start:]
        self.send_response(206 if asked else 200)
        if not self.hub.redirects:
            self.send_header("ETag", f'"{self.hub.etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(rest)))
        if asked:
            total = len(self.hub.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if body:
            self.wfile.write(rest[: self.hub.fail_after])
        if body and self.hub.stall:
            self.hub.stalled.set()
            self.hub.released.wait()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output quiet."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve one file on loopback, as the hub would; HF_ENDPOINT is `hub.endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()

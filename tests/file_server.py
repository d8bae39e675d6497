"""A web server of files with ranges, which also lists them as the Hugging Face hub does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TREE = "/api/datasets/owner/name/tree/main"
RESOLVE = "/datasets/owner/name/resolve/main"
_PAGE = 3  # entries of a list; the hub's own has 1,000


@dataclass
class Files:
    """Files by their paths, such as `/a.csv`; with a token, others get 401."""

    files: dict[str, bytes]
    token: str = ""
    has_ranges: bool = True
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Files

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(f"{self.command} {path}")
        if self.served.token and self.headers["Authorization"] != f"Bearer {self.served.token}":
            self._send(401, b"")
        elif path.startswith(TREE):
            self._list(path[len(TREE) :].strip("/"))
        elif (data := self.served.files.get(path)) is None:
            self._send(404, b"")
        elif self.served.has_ranges and (wanted := self.headers["Range"]):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            end = int(first) + len(part) - 1
            self._send(206, part, {"Content-Range": f"bytes {first}-{end}/{len(data)}"})
        else:
            self._send(200, data)

    do_HEAD = do_GET  # noqa: N815 - the names of methods

    def _list(self, folder: str) -> None:
        start = f"{RESOLVE}/{folder}/" if folder else f"{RESOLVE}/"
        names = [path for path in sorted(self.served.files) if path.startswith(start)]
        _, _, after = urlsplit(self.path).query.partition("cursor=")
        page = [path for path in names if path > unquote(after)]
        headers = {"Content-Type": "application/json"}
        if len(page) > _PAGE:
            following = f"{self.served.endpoint}{TREE}/{folder}?cursor={page[_PAGE - 1]}"
            headers["Link"] = f'<{following}>; rel="next"'
        entries = [
            {"type": "file", "path": path[len(RESOLVE) + 1 :], "size": 1, "oid": "0" * 40}
            for path in page[:_PAGE]
        ]
        self._send(200, json.dumps(entries).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output quiet."""


@contextmanager
def serve_files(served: Files) -> Iterator[Files]:
    """Serve files on loopback; `served.endpoint` is the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"served": served}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

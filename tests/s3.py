"""A small S3 server for tests, whose faults can be switched on.

It has the operations that a dataset needs of an object store: PUT with `If-None-Match: *`, GET with
Range and If-Match, HEAD, DELETE, and lists in pages. It takes any credentials, but refuses a
request whose body does not match its signature.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PAGE = 50  # keys; S3's own has 1,000
EMPTY = hashlib.sha256(b"").hexdigest()  # Google's stores are asked for objects without a hash

# The effects of a fault on a request.
REFUSE_403, REFUSE_500, REFUSE_503, CONFLICT = (
    "403",
    "500",
    "503",
    "409",
)  # answered so, and not done
HANG = "hang"  # no answer, for as long as the fault is there
CUT_UPLOAD = "cut upload"  # the connection ends after half of the request's body
CUT_DOWNLOAD = "cut download"  # … and of the answer's
LOSE_ANSWER = "lose answer"  # done, and then the connection ends
LOSE_ANSWER_500 = "lose answer, say 500"  # done, and then answered with 500


@dataclass
class Fault:
    """A fault of the next `times` requests of a method whose key contains `key`."""

    kind: str
    method: str = ""  # any
    key: str = ""
    times: int = 1 << 30
    met: int = 0


@dataclass
class Stored:
    """An object."""

    data: bytes
    metadata: dict[str, str]
    modified_s: float = field(default_factory=time.time)  # since 1970

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'  # noqa: S324 - as S3 does


@dataclass
class S3:
    """A running server: its objects by `bucket/key`, its faults, the requests it met."""

    buckets: set[str]
    objects: dict[str, Stored] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    port: int = 0
    delay_s: float = 0.0  # before each answer
    lock: threading.Lock = field(default_factory=threading.Lock)
    _faults: list[Fault] = field(default_factory=list)
    _healed: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead AWS's tools, and clipfleet, here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "not-so-secret",
        }

    def break_(self, kind: str, *, method: str = "", key: str = "", times: int = 1 << 30) -> Fault:
        """Switch a fault on."""
        fault = Fault(kind, method, key, times)
        with self.lock:
            self._healed = threading.Event()
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Switch all faults off; requests that hang come to their end."""
        with self.lock:
            self._faults.clear()
            self._healed.set()

    def fault_of(self, method: str, key: str) -> str:
        """Return the fault of a request, "" for none, and count it."""
        with self.lock:
            for fault in self._faults:
                if fault.method in ("", method) and fault.key in key and fault.met < fault.times:
                    fault.met += 1
                    return fault.kind
            return ""

    def wait_healed(self) -> None:
        self._healed.wait()


@contextmanager
def run_s3(*buckets: str, port: int = 0) -> Iterator[S3]:
    """Run a server with these buckets, empty."""
    s3 = S3(set(buckets))
    server = _Server(("127.0.0.1", port), _Handler)
    server.s3, s3.port = s3, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        s3.heal()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    s3: S3

    def handle_error(self, *_: Any) -> None:
        """A client that went away, or was sent away, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names of methods

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        s3 = self.server.s3
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.bucket, _, self.key = unquote(url.path).lstrip("/").partition("/")
        name = self.key or self.query.get("prefix", [""])[0]
        s3.requests.append(f"{self.command} {name}")
        fault = s3.fault_of(self.command, name)
        body = self._body(cut=fault == CUT_UPLOAD)
        if fault == CUT_UPLOAD:
            self._hang_up()
        elif fault == HANG:
            s3.wait_healed()
            self._hang_up()
        elif fault in (REFUSE_403, REFUSE_500, REFUSE_503, CONFLICT):
            codes = {REFUSE_403: "AccessDenied", CONFLICT: "ConditionalRequestConflict"}
            self._refuse(int(fault), codes.get(fault, "Trouble"))
        elif self.headers.get("x-amz-content-sha256", EMPTY) != hashlib.sha256(body).hexdigest():
            self._refuse(400, "XAmzContentSHA256Mismatch")
        elif self.bucket not in s3.buckets:
            self._refuse(404, "NoSuchBucket")
        else:
            self._fault = fault
            with s3.lock:
                answer = self._answer(body)
            self._send(*answer)

    def _answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        objects, place = self.server.s3.objects, f"{self.bucket}/{self.key}"
        if self.command == "PUT":
            if self.headers["If-None-Match"] == "*" and place in objects:
                return _error(412, "PreconditionFailed")
            headers = ((k.lower(), v) for k, v in self.headers.items())
            metadata = {k: v for k, v in headers if k.startswith("x-amz-meta-")}
            objects[place] = Stored(body, metadata)
            return 200, {"ETag": objects[place].etag}, b""
        if self.command == "POST" and "delete" in self.query:
            keys = [e.text for e in ElementTree.fromstring(body).iter() if e.tag.endswith("Key")]  # noqa: S314
            for key in keys:
                objects.pop(f"{self.bucket}/{key}", None)
            deleted = "".join(f"<Deleted><Key>{escape(k or '')}</Key></Deleted>" for k in keys)
            return 200, {}, f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if self.command == "DELETE":
            objects.pop(place, None)
            return 204, {}, b""
        if not self.key:
            return 200, {}, self._list().encode()
        found = objects.get(place)
        return _error(404, "NoSuchKey") if found is None else self._read(found)

    def _read(self, found: Stored) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "ETag": found.etag,
            "Last-Modified": self.date_time_string(int(found.modified_s)),
            "Accept-Ranges": "bytes",
            **found.metadata,
        }
        if self.headers["If-Match"] not in (None, found.etag):
            return _error(412, "PreconditionFailed")
        if "Range" not in self.headers:
            return 200, headers, found.data
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or 1 << 60) + 1, len(found.data))
        if start >= end:
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(found.data)}"
        return 206, headers, found.data[start:end]

    def _list(self) -> str:
        prefix = self.query.get("prefix", [""])[0]
        delimiter = self.query.get("delimiter", [""])[0]
        after = (self.query.get("continuation-token") or self.query.get("start-after") or [""])[0]
        start = f"{self.bucket}/"
        keys = (p.removeprefix(start) for p in self.server.s3.objects if p.startswith(start))
        entries = set()
        for key in keys:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                folder, found, _ = rest.partition(delimiter) if delimiter else (rest, "", "")
                entries.add(prefix + folder + found)
        page = list(itertools.islice(sorted(e for e in entries if e > after), PAGE + 1))
        more = len(page) > PAGE
        return _list_xml(self.bucket, prefix, page[:PAGE], more, self.server.s3.objects)

    def _body(self, *, cut: bool) -> bytes:
        size = int(self.headers["Content-Length"] or 0)
        return self.rfile.read(size // 2 if cut else size)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.server.s3.delay_s:
            time.sleep(self.server.s3.delay_s)
        if self._fault == LOSE_ANSWER:
            self._hang_up()
            return
        if self._fault == LOSE_ANSWER_500:
            status, headers, body = _error(500, "InternalError")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self._fault == CUT_DOWNLOAD:
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        else:
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._fault = ""
        self._send(*_error(status, code))

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


def _error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    text = f"<Error><Code>{code}</Code><Message>a test's {status}</Message></Error>"
    return status, {"Content-Type": "application/xml"}, text.encode()


def _list_xml(
    bucket: str, prefix: str, page: list[str], more: bool, objects: dict[str, Stored]
) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    entries = []
    for entry in page:
        if entry.endswith("/") and entry != prefix:
            entries.append(f"<CommonPrefixes><Prefix>{escape(entry)}</Prefix></CommonPrefixes>")
            continue
        stored = objects[f"{bucket}/{entry}"]
        entries.append(
            f"<Contents><Key>{escape(entry)}</Key><Size>{len(stored.data)}</Size>"
            f"<LastModified>{now}</LastModified><ETag>{escape(stored.etag)}</ETag></Contents>"
        )
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    cut = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    return f"<ListBucketResult>{cut}{''.join(entries)}{token}</ListBucketResult>"

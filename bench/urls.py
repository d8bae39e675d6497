"""Compare pictures from a web server 50 ms away with the same pictures from the disk.

    python bench/urls.py --items 1024 --rounds 3
    python bench/urls.py --items 1024 --dead     cost of a host that refuses connections

Both use the worker's pipeline (read, decode, preprocess) with an engine that takes almost no
time, one shard in a run, in turn. Every rate is divided by the disk's rate of its round. The server
is another process on this machine, and its CPU time slows the URLs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipfleet.errors import ItemError
from clipfleet.items import Item
from clipfleet.settings import Settings, cores
from clipfleet.workers.embedder import Embedder
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from clipfleet.workers.http.fetcher import Fetcher, FetchLimits, Room
from clipfleet.workers.http.policy import UrlPolicy
from clipfleet.workers.http.prefetch import Prefetcher, RetryLimits

RESOLUTION = 224
LATE, SLOW = "?late", "?slow"  # 503 at first; two seconds late


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to the pictures; `marks` are the queries of the first URLs."""

    name: str
    threads: int = 0  # of fetching; 0: from the disk
    marks: tuple[str, ...] = ()


def main() -> None:
    arguments = parse_arguments()
    if arguments.dead:
        print_dead(arguments.items)
        return
    cases = (
        Case(name="disk"),
        Case(name="URLs, one at a time for each core", threads=cores()),
        Case(name="URLs, 16 at a time", threads=16),
        Case(name="URLs, 64 at a time", threads=64),
        Case(name="the same, 1 in 100 answers 503 once", threads=64, marks=(LATE,) * 10),
        Case(name="the same, 1 URL is two seconds late", threads=64, marks=(SLOW,)),
    )
    with tempfile.TemporaryDirectory(prefix="clipfleet-bench-") as name:
        path = Path(name, "picture.jpg")
        path.write_bytes(picture())
        command = [sys.executable, __file__, "--serve", str(path), str(arguments.latency_ms)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline())
                rates = measure(cases, path, port, arguments.items, arguments.rounds)
            finally:
                server.terminate()
    size_kb = len(picture()) // 1000
    print(f"\n{arguments.items:,} pictures of 500 × 375, {size_kb} kB, {arguments.latency_ms} ms")
    print(f"{cores()} cores, one shard a run, median of {arguments.rounds} rounds in turn\n")
    print("| pictures from | pictures/s | of the disk's rate |")
    print("|---|---|---|")
    disk = rates["disk"]
    for case in cases:
        ratios = [rate / base for rate, base in zip(rates[case.name], disk, strict=True)]
        rate = statistics.median(rates[case.name])
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        print(f"| {case.name} | {rate:,.0f} | {statistics.median(ratios):.2f} ({spread}) |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=50)
    parser.add_argument("--dead", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("PICTURE", "MS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        path, latency_ms = arguments.serve
        asyncio.run(serve(Path(path).read_bytes(), int(latency_ms) / 1000))
        sys.exit()
    return arguments


def picture() -> bytes:
    """A JPEG of a photograph's size: smooth, with a photograph's share of noise."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, dtype=np.int16) + random.integers(-12, 13, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(
    cases: Sequence[Case], path: Path, port: int, items: int, rounds: int
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases:
            rate = run(case, path, port, items, run_number=number)
            if number:  # the first round warms everything up
                rates[case.name].append(rate)
    return rates


def run(case: Case, path: Path, port: int, count: int, *, run_number: int) -> float:
    marks = (*case.marks, *[""] * count)
    address = f"http://127.0.0.1:{port}/{case.threads}-{run_number}"
    items = [
        Item(id=str(n), uri=f"{address}/{n}.jpg{marks[n]}" if case.threads else str(path))
        for n in range(count)
    ]
    settings = Settings(
        url_private_hosts=(f"127.0.0.1:{port}",),
        url_schemes=("http",),
        url_threads=case.threads or 1,
    )
    engine = FakeEngine(fake_card("img", resolution=RESOLUTION))
    with Embedder(engine, settings) as embedder:
        started_s = time.monotonic()
        embedded = embedder.embed(items)
        seconds = time.monotonic() - started_s
    assert len(embedded.items) == count, embedded.failures[:1]
    return count / seconds


def print_dead(count: int) -> None:
    """Print what two shards of URLs cost, one after the other, of a host that is down."""
    print("| shard | URLs | seconds | connections tried |")
    print("|---|---|---|---|")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        settings = Settings(url_private_hosts=(host,), url_schemes=("http",))
        retry_limits = RetryLimits(attempts=settings.read_attempts, retry_s=settings.read_retry_s)
        fetcher = Fetcher(UrlPolicy.from_settings(settings), FetchLimits.from_settings(settings))
        tried: list[str] = []

        def fetch(url: str, room: Room) -> bytes:
            tried.append(url)
            return fetcher.fetch(url, room)

        ahead = Prefetcher(
            fetch,
            threads=settings.url_threads,
            ahead_bytes=settings.url_ahead_bytes,
            retry_limits=retry_limits,
        )
        for shard in ("first", "second"):
            urls = [f"http://{host}/{shard}/{n}" for n in range(count)]
            tried.clear()
            started_s = time.monotonic()
            ahead.begin(urls)
            for url in urls:
                with suppress(ItemError):
                    ahead.take(url)
            seconds = time.monotonic() - started_s
            print(f"| {shard} | {count:,} | {seconds:.1f} | {len(tried)} |", flush=True)
        ahead.close()


async def serve(body: bytes, latency_s: float) -> None:
    """Answer every request with the picture after a while; print the port first."""
    late: set[str] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode()
                await asyncio.sleep(2.0 if path.endswith(SLOW) else latency_s)
                if path.endswith(LATE) and path not in late:
                    late.add(path)
                    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                else:
                    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                    writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # the client went away

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    main()

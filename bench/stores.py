"""How fast a prefix is listed, and its small pictures read ahead, beside one after the other.

    python -m bench.stores [--keys 10000] [--pictures 1000] [--delay-ms 20]

The store is that of the tests (`tests/s3.py`), in a process of its own; each of its answers comes
`--delay-ms` later, as over a network.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import tests.s3 as store
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.storage.sources.open_source import open_source
from clipfleet.workers.http.prefetch import Prefetcher
from clipfleet.workers.http.remote_fetcher import RemoteFetcher

_PICTURE_BYTES = 20_000
_PAGE_KEYS = 1000


def serve(keys: int, delay_s: float) -> None:
    """Serve keys until the input ends."""
    store.PAGE = _PAGE_KEYS
    with store.run_s3("bucket") as s3:
        s3.delay_s = delay_s
        for number in range(keys):
            key = f"bucket/photos/{number // 100:03}/{number:05}.jpg"
            s3.objects[key] = store.Stored(os.urandom(_PICTURE_BYTES), {})
        print(s3.port, flush=True)
        sys.stdin.read()


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def measure(keys: int, pictures: int) -> None:
    """Print the seconds of the list, and of both ways of reading."""
    items: list[Item] = []
    listed_s = seconds(lambda: items.extend(open_source("s3://bucket/photos", tower="img")))
    uris = [item.uri or "" for item in items[:pictures]]
    settings = Settings()
    fetcher = RemoteFetcher.from_settings(settings)
    one_by_one_s = seconds(lambda: [fetcher.fetch(uri) for uri in uris])
    prefetcher = Prefetcher.from_settings(settings)
    prefetcher.begin(uris)
    ahead_s = seconds(lambda: [prefetcher.take(uri) for uri in uris])
    prefetcher.close()
    print(f"listed {len(items):,} of {keys:,} keys: {listed_s:.2f} s")
    print(f"read {pictures:,} pictures one by one: {one_by_one_s:.2f} s; ahead: {ahead_s:.2f} s")
    print(f"ratio: {one_by_one_s / ahead_s:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.keys, given.delay_ms / 1000)
        return
    command = [sys.executable, "-m", "bench.stores", "--serve", f"--keys={given.keys}"]
    command.append(f"--delay-ms={given.delay_ms}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        port = int((server.stdout or sys.exit("no output")).readline())
        os.environ |= store.S3({"bucket"}, port=port).environment
        measure(given.keys, given.pictures)
        server.terminate()


if __name__ == "__main__":
    main()

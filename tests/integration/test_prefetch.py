"""Prefetching for an engine that is slow."""

from __future__ import annotations

import time

import pytest

from clipfleet.error_codes import FETCH_FAILED
from clipfleet.errors import ItemError
from clipfleet.workers.http.fetcher import Room
from clipfleet.workers.http.prefetch import Prefetcher, RetryLimits


def test_a_connection_that_this_process_did_not_read_is_no_failure_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a slow engine, fetches wait for room, and servers close their connections."""
    monkeypatch.setattr("clipfleet.workers.http.prefetch.backoff_s", lambda _: 0.0)
    monkeypatch.setattr("clipfleet.workers.http.prefetch._MAX_BLOCKED_S", 0.01)

    def fetch(url: str, room: Room) -> bytes:
        if room(100) >= 0.01:
            raise ItemError(FETCH_FAILED, "Connection reset by peer")
        return b"there"

    prefetcher = Prefetcher(fetch, threads=4, ahead_bytes=100, retry_limits=RetryLimits(attempts=1))
    urls = [f"https://a.example/{n}" for n in range(10)]
    prefetcher.begin(urls)
    for url in urls:
        time.sleep(0.02)  # the engine's; no less, for the others to be kept waiting
        assert prefetcher.take(url) == b"there"
    prefetcher.close()

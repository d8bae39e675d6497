"""Prefetching of URLs: order, concurrency, bounds, and retries of transient errors."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from clipfleet.error_codes import (
    ERROR_CODES,
    FETCH_FAILED,
    FETCH_TIMEOUT,
    MISSING,
    TOO_LARGE,
    TRANSIENT_CODES,
)
from clipfleet.error_codes import SERVER_BUSY as BUSY
from clipfleet.errors import ClipfleetError, ItemError, StorageError
from clipfleet.workers.backoff import backoff_s
from clipfleet.workers.http.circuit_breaker import CircuitBreaker
from clipfleet.workers.http.fetcher import BusyError, Room
from clipfleet.workers.http.prefetch import Prefetcher, RetryLimits

WAIT_S = 10.0  # a limit for events that come at once unless a test fails


class Servers:
    """A fake of all servers: it answers by the number of the attempt for a URL, from 1."""

    def __init__(self, answer: Callable[[str, int], bytes]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.asked: list[str] = []

    def fetch(self, url: str, room: Room) -> bytes:
        with self._lock:
            self.asked.append(url)
            number = self.asked.count(url)
        data = self._answer(url, number)
        room(len(data))
        return data

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.asked)


@contextmanager
def prefetching(
    servers: Servers,
    *,
    threads: int = 4,
    ahead_bytes: int = 1 << 20,
    retry_limits: RetryLimits | None = None,
) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(
        servers.fetch,
        threads=threads,
        ahead_bytes=ahead_bytes,
        retry_limits=retry_limits or RetryLimits(),
    )
    try:
        yield prefetcher
    finally:
        prefetcher.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are as short as jitter may make them."""
    monkeypatch.setattr("clipfleet.workers.http.prefetch.backoff_s", lambda _: 0.0)
    monkeypatch.setattr("clipfleet.workers.http.circuit_breaker.backoff_s", lambda _: 0.0)


def urls(count: int, host: str = "a.example") -> list[str]:
    return [f"https://{host}/{n}" for n in range(count)]


def failure(prefetcher: Prefetcher, url: str) -> ItemError:
    with pytest.raises(ItemError) as raised:
        prefetcher.take(url)
    return raised.value


def test_each_url_is_fetched_once_and_taken() -> None:
    servers = Servers(lambda url, _: url.encode())
    with prefetching(servers) as prefetcher:
        for run in range(3):
            wanted = [f"{url}?{run}" for url in urls(50)]
            prefetcher.begin(wanted)
            assert [prefetcher.take(url) for url in wanted] == [url.encode() for url in wanted]
        assert set(servers.counts.values()) == {1}
        assert len(servers.asked) == 150


def test_many_fetches_are_in_flight_before_any_body_is_taken() -> None:
    together = threading.Barrier(8, timeout=WAIT_S)

    def answer(url: str, _: int) -> bytes:
        together.wait()
        return b"x"

    with prefetching(Servers(answer), threads=8) as prefetcher:
        prefetcher.begin(urls(16))
        assert [prefetcher.take(url) for url in urls(16)] == [b"x"] * 16


def test_two_items_with_one_url_have_it_fetched_once() -> None:
    servers = Servers(lambda url, _: b"same")
    with prefetching(servers) as prefetcher:
        prefetcher.begin(["https://a.example/x"] * 3)
        assert [prefetcher.take("https://a.example/x") for _ in range(3)] == [b"same"] * 3
        assert len(servers.asked) == 1
        assert (
            prefetcher.take("https://a.example/x") == b"same"
        )  # as for a picture that is tried alone
        assert len(servers.asked) == 2


def test_a_url_outside_the_shard_is_fetched_by_the_caller() -> None:
    with prefetching(
        Servers(lambda url, _: threading.current_thread().name.encode())
    ) as prefetcher:
        assert prefetcher.take("https://a.example/x") == threading.current_thread().name.encode()


@pytest.mark.parametrize("code", sorted(TRANSIENT_CODES))
def test_transient_errors_are_retried(code: str) -> None:
    def answer(url: str, number: int) -> bytes:
        if number < 3:
            raise ItemError(code, "not now")
        return b"there"

    servers = Servers(answer)
    with prefetching(servers) as prefetcher:
        prefetcher.begin(urls(5))
        assert [prefetcher.take(url) for url in urls(5)] == [b"there"] * 5
        assert set(servers.counts.values()) == {3}


@pytest.mark.parametrize("code", sorted(set(ERROR_CODES) - TRANSIENT_CODES))
def test_permanent_errors_are_not_retried(code: str) -> None:
    def answer(url: str, _: int) -> bytes:
        raise ItemError(code, "for ever")

    servers = Servers(answer)
    with prefetching(servers) as prefetcher:
        prefetcher.begin(urls(5))
        assert {failure(prefetcher, url).code for url in urls(5)} == {code}
        assert set(servers.counts.values()) == {1}


def test_the_last_failure_says_how_often_it_was_tried() -> None:
    def answer(url: str, number: int) -> bytes:
        raise ItemError(FETCH_TIMEOUT, f"try {number} took too long")

    servers = Servers(answer)
    with prefetching(servers, retry_limits=RetryLimits(attempts=4)) as prefetcher:
        prefetcher.begin(urls(1))
        error = failure(prefetcher, urls(1)[0])
    assert error.code == FETCH_TIMEOUT
    assert str(error) == "try 4 took too long (tried 4 times)"
    assert len(servers.asked) == 4


def test_a_server_is_asked_again_after_its_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks it before that, and nobody's tries are used up meanwhile."""
    times_s: list[float] = []
    refused = threading.Event()

    def answer(url: str, number: int) -> bytes:
        times_s.append(time.monotonic())
        if not refused.is_set():
            refused.set()
            raise BusyError("too many requests", retry_after_s=0.2)
        return b"there"

    with prefetching(
        Servers(answer), threads=1, retry_limits=RetryLimits(attempts=2)
    ) as prefetcher:
        prefetcher.begin(urls(20))
        assert [prefetcher.take(url) for url in urls(20)] == [b"there"] * 20
    assert len(times_s) == 21
    at_once = [asked_s for asked_s in times_s if asked_s - times_s[0] < 0.2]
    assert len(at_once) <= 2  # the caller of `take` may fetch beside the thread


def test_a_server_that_asks_for_too_much_patience_is_given_as_much_as_others() -> None:
    def answer(url: str, _: int) -> bytes:
        raise BusyError("come tomorrow", retry_after_s=86_400.0)

    servers = Servers(answer)
    retry_limits = RetryLimits(attempts=9, retry_s=0.1)
    with prefetching(servers, threads=16, retry_limits=retry_limits) as prefetcher:
        prefetcher.begin(urls(100))
        assert {failure(prefetcher, url).code for url in urls(100)} == {BUSY}
    assert len(servers.asked) < 100  # the others failed with the host


def test_one_answer_that_a_server_is_too_busy_condemns_no_other_url() -> None:
    """As where it limits its rate: it answers the others, a little later."""

    def answer(url: str, number: int) -> bytes:
        if url.endswith("/5") and number == 1:
            raise BusyError("too many requests", retry_after_s=60.0)
        return b"there"

    with prefetching(Servers(answer), retry_limits=RetryLimits(retry_s=0.2)) as prefetcher:
        prefetcher.begin(urls(100))
        assert [prefetcher.take(url) for url in urls(100)] == [b"there"] * 100


def test_a_dead_host_costs_no_time_out_for_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it failed for long enough, whatever is asked of it fails at once; others go on."""
    now_s = [1000.0]

    def answer(url: str, _: int) -> bytes:
        if "dead" in url:
            now_s[0] += 5.0
            raise ItemError(FETCH_TIMEOUT, "no answer in 5 s")
        return b"alive"

    monkeypatch.setattr("clipfleet.workers.http.prefetch.time.monotonic", lambda: now_s[0])

    servers = Servers(answer)
    pairs = list(zip(urls(1000, "dead.example"), urls(1000), strict=True))
    with prefetching(servers, retry_limits=RetryLimits(attempts=3, retry_s=30.0)) as prefetcher:
        prefetcher.begin([url for pair in pairs for url in pair])
        for dead, alive in pairs:
            assert failure(prefetcher, dead).code == FETCH_TIMEOUT
            assert prefetcher.take(alive) == b"alive"
    tries = Counter("dead" in url for url in servers.asked)
    assert tries[False] == 1000
    assert 8 <= tries[True] <= 16


def test_a_host_that_failed_is_asked_again_after_a_while() -> None:
    breaker = CircuitBreaker(retry_s=30.0)
    refused = ItemError(FETCH_FAILED, "refused")
    for second in range(31):
        assert breaker.down("h", second) is None
        breaker.failed("h", refused, second)
    down = breaker.down("h", 31.0)
    assert down is not None
    assert down.code == FETCH_FAILED
    assert str(down) == "h was not asked again, for it failed 31 times: refused"
    assert breaker.down("other", 31.0) is None
    assert breaker.down("h", 61.0) is None
    breaker.failed("h", refused, 61.0)  # the first after the pause
    assert breaker.down("h", 62.0) is not None
    breaker.answered("h", 62.0)
    assert breaker.down("h", 62.0) is None
    breaker.failed("h", refused, 63.0)
    assert breaker.down("h", 63.5) is None


def test_retry_after_stays_in_force_though_the_host_answers_other_requests() -> None:
    breaker = CircuitBreaker(retry_s=30.0)
    breaker.failed("h", BusyError("too many requests", retry_after_s=5.0), 1.0)
    breaker.answered("h", 2.0)
    assert breaker.paused_until_s("h") == 6.0
    breaker.answered("h", 6.0)
    assert breaker.paused_until_s("h") == 0.0


def test_pauses_end_when_the_host_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfleet.workers.http.circuit_breaker.backoff_s", lambda _: 100.0)
    breaker = CircuitBreaker(retry_s=30.0)
    for second in range(8):
        breaker.failed("h", ItemError(FETCH_FAILED, "refused"), second)
    assert breaker.paused_until_s("h") == 30.0
    breaker.failed("h", ItemError(FETCH_FAILED, "refused"), 30.0)
    assert breaker.down("h", 30.0) is not None


def test_few_failures_of_a_host_pause_no_request() -> None:
    breaker = CircuitBreaker(retry_s=30.0)
    for _ in range(7):
        breaker.failed("h", ItemError(FETCH_TIMEOUT, "slow"), 1.0)
    assert breaker.paused_until_s("h") == 0


def test_a_failure_of_long_ago_does_not_bring_a_host_down_sooner() -> None:
    breaker = CircuitBreaker(retry_s=30.0)
    breaker.failed("h", ItemError(FETCH_FAILED, "refused"), 0.0)
    for _ in range(8):
        breaker.failed("h", ItemError(FETCH_FAILED, "refused"), 3600.0)
    assert breaker.down("h", 3600.0) is None
    breaker.failed("h", ItemError(FETCH_FAILED, "refused"), 3630.0)
    assert breaker.down("h", 3630.0) is not None


def test_waits_double_and_are_drawn_from_half_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("clipfleet.workers.backoff.random.uniform", draw)
    assert [backoff_s(attempt) for attempt in (1, 2, 3, 4, 100)] == [0.5, 1.0, 2.0, 4.0, 32.0]
    assert all(low == high / 2 for low, high in drawn)


def test_the_bytes_fetched_ahead_are_bounded() -> None:
    """Whoever takes gets through, however little room there is."""
    held, most, lock = 0, 0, threading.Lock()

    def answer(url: str, _: int) -> bytes:
        return bytes(1000)

    class Counting(Servers):
        def fetch(self, url: str, room: Room) -> bytes:
            nonlocal held, most
            data = super().fetch(url, room)
            with lock:
                held += 1
                most = max(most, held)
            return data

    with prefetching(Counting(answer), threads=16, ahead_bytes=5000) as prefetcher:
        prefetcher.begin(urls(200))
        for url in urls(200):
            prefetcher.take(url)
            with lock:
                held -= 1
    assert most <= 5 + 1  # and the one that is waited for


def test_a_url_larger_than_all_room_is_fetched() -> None:
    with prefetching(Servers(lambda url, _: bytes(10_000)), ahead_bytes=100) as prefetcher:
        prefetcher.begin(urls(20))
        assert [len(prefetcher.take(url)) for url in urls(20)] == [10_000] * 20


def test_retries_get_through_though_all_threads_wait_for_room() -> None:
    """The first fails until the others have filled all room, and every thread waits in one."""
    filled = threading.Event()

    def answer(url: str, number: int) -> bytes:
        if url.endswith("/0") and number == 1:
            raise ItemError(FETCH_FAILED, "not yet")
        return bytes(60)

    servers = Servers(answer)
    with prefetching(servers, threads=2, ahead_bytes=100) as prefetcher:
        prefetcher.begin(urls(10))
        filled.set()
        assert [len(prefetcher.take(url)) for url in urls(10)] == [60] * 10


@pytest.mark.parametrize("code", [TOO_LARGE, FETCH_FAILED])
def test_the_bytes_of_a_failed_fetch_are_freed_at_once(code: str) -> None:
    """As an error's traceback would keep it, uncounted, for each URL of a shard."""
    read: list[weakref.ref[Body]] = []

    class Body(bytearray):
        pass

    def answer(url: str, _: int) -> bytes:
        body = Body(b"a part of it")
        read.append(weakref.ref(body))
        raise ItemError(code, "no more")

    servers = Servers(answer)
    with prefetching(servers, threads=1, retry_limits=RetryLimits(attempts=1)) as prefetcher:
        prefetcher.begin(urls(2))
        assert failure(prefetcher, urls(2)[1]).code == code
        end_s = time.monotonic() + WAIT_S
        while len(read) < 2 or any(body() is not None for body in read):
            assert time.monotonic() < end_s  # the thread may be at the first just now
            gc.collect()
        assert failure(prefetcher, urls(2)[0]).code == code


def test_a_run_of_which_nothing_comes_ends() -> None:
    servers = Servers(lambda url, _: b"x")
    with prefetching(servers, retry_limits=RetryLimits(stall_s=0.0)) as prefetcher:
        prefetcher.begin(urls(100))
        errors = [failure(prefetcher, url) for url in urls(100)]
    assert {error.code for error in errors} == {FETCH_TIMEOUT}
    assert "nothing of its shard was fetched for 0 s" in str(errors[0])
    assert servers.asked == []


def test_an_error_of_the_machine_is_raised_to_the_caller() -> None:
    def answer(url: str, _: int) -> bytes:
        raise StorageError("no descriptor left")

    with prefetching(Servers(answer)) as prefetcher:
        prefetcher.begin(urls(2))
        with pytest.raises(StorageError, match="no descriptor"):
            prefetcher.take(urls(2)[0])


def test_bodies_that_were_not_taken_make_room_for_the_next_shard() -> None:
    with prefetching(Servers(lambda url, _: bytes(100)), ahead_bytes=200) as prefetcher:
        for run in range(5):
            wanted = [f"{url}?{run}" for url in urls(10)]
            prefetcher.begin(wanted)
            prefetcher.take(wanted[0])
        prefetcher.begin(urls(10))
        assert [len(prefetcher.take(url)) for url in urls(10)] == [100] * 10


def test_close_ends_the_wait_of_a_caller_with_an_error() -> None:
    asked, released = threading.Event(), threading.Event()

    def answer(url: str, _: int) -> bytes:
        asked.set()
        released.wait(WAIT_S)
        return b"x"

    errors: list[Exception] = []

    def wait() -> None:
        try:
            prefetcher.take(urls(1)[0])
        except ClipfleetError as error:
            errors.append(error)

    with prefetching(Servers(answer)) as prefetcher:
        prefetcher.begin(urls(1))
        asked.wait(WAIT_S)
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not prefetcher._pending[urls(1)[0]].wanted:
            pass
        prefetcher.close()
        waiting.join(WAIT_S)
        released.set()
    assert not waiting.is_alive()
    assert "not wanted any more" in str(errors[0])


def test_the_error_of_a_fetch_keeps_its_message() -> None:
    """The error of a fetch is the item's, with its message."""

    def answer(url: str, _: int) -> bytes:
        raise ItemError(MISSING, "its server answers 404")

    with prefetching(Servers(answer)) as prefetcher:
        prefetcher.begin(urls(1))
        assert str(failure(prefetcher, urls(1)[0])) == "its server answers 404"

"""URLs fetched ahead of their use, many at a time, with retries of transient failures."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from clipfleet.error_codes import FETCH_TIMEOUT, TRANSIENT_CODES
from clipfleet.errors import ClipfleetError, ItemError
from clipfleet.settings import Settings
from clipfleet.workers.backoff import backoff_s
from clipfleet.workers.http.circuit_breaker import CircuitBreaker
from clipfleet.workers.http.fetcher import Room
from clipfleet.workers.http.policy import named_host
from clipfleet.workers.http.queue import Pending, Queue, State
from clipfleet.workers.http.remote_fetcher import RemoteFetcher
from clipfleet.workers.item_errors import item_error, shown

Fetch = Callable[[str, Room], bytes]

# If this process did not read for so long, a closed connection is no failure of the server.
_MAX_BLOCKED_S = 5.0
_STALL_SHARE = 0.5  # of `shard_deadline_s`, after which a process without progress is killed


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryLimits:
    """The limits of attempts for one URL, and of waits for a shard."""

    attempts: int = 3  # for one URL
    retry_s: float = 30.0  # from a URL's first failure to its last attempt
    stall_s: float = 900.0  # longest time without a URL of the shard being taken


class _DroppedError(ClipfleetError):
    """A fetch whose shard is not read any more."""


class Prefetcher:
    """Fetches the URLs of one shard after another, in their order, in threads of its own.

    Bodies that are not taken yet have at most `ahead_bytes` in total. The body for which a caller
    of `take` waits may exceed that limit, so that threads and caller never wait for each other.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        threads: int,
        ahead_bytes: int,
        retry_limits: RetryLimits | None = None,
    ) -> None:
        self._fetch = fetch
        self._count = threads
        self._ahead_bytes = ahead_bytes
        self._retry_limits = retry_limits or RetryLimits()
        self._breaker = CircuitBreaker(self._retry_limits.retry_s)
        self._pending: dict[str, Pending] = {}
        self._queue = Queue()
        self._held_bytes = 0
        self._end_s = math.inf
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # a URL is due, or there is room to begin one
        self._room = threading.Condition(self._lock)  # there is room for more bytes
        self._change = threading.Condition(self._lock)  # a URL was fetched, or postponed

    @classmethod
    def from_settings(cls, settings: Settings) -> Prefetcher:
        retry_limits = RetryLimits(
            attempts=settings.read_attempts,
            retry_s=settings.read_retry_s,
            stall_s=settings.shard_deadline_s * _STALL_SHARE,
        )
        return cls(
            RemoteFetcher.from_settings(settings).fetch,
            threads=settings.url_threads,
            ahead_bytes=settings.url_ahead_bytes,
            retry_limits=retry_limits,
        )

    def begin(self, urls: Collection[str]) -> None:
        """Start to fetch the URLs of a shard, each once; drop the rest of the previous shard."""
        with self._lock:
            self._drop()
            self._end_s = time.monotonic() + self._retry_limits.stall_s
            for position, (url, users) in enumerate(Counter(urls).items()):
                self._add(url, position, users)
            self._start_threads()
            self._work.notify_all()

    def take(self, url: str) -> bytes:
        """Wait for a URL's body and return it; a URL outside the shard is fetched now.

        Raises:
            ItemError: The URL was not fetched; if the error is transient, after all attempts.
            StorageError: This process has no file descriptor or memory left.
        """
        with self._lock:
            pending = self._pending.get(url) or self._add(url, len(self._pending), 1)
            pending.wanted = True
            self._room.notify_all()
        while not self._is_done(pending):
            self._run(pending)  # no thread has started it: fetch it in the caller's thread
        return self._taken(pending)

    def close(self) -> None:
        """Let each thread end after its current fetch."""
        with self._lock:
            self._drop()
            self._closed = True
            self._work.notify_all()

    def _add(self, url: str, position: int, users: int) -> Pending:
        pending = Pending(url=url, host=named_host(url), position=position, users=users)
        self._pending[url] = pending
        self._queue.put(pending)
        return pending

    def _drop(self) -> None:
        for pending in self._pending.values():
            pending.dropped = True
            if pending.state is not State.RUNNING:
                self._release(pending)
                pending.data = b""
        self._pending, self._queue = {}, Queue()
        self._room.notify_all()
        self._change.notify_all()

    def _start_threads(self) -> None:
        wanted = min(self._count, len(self._pending))
        while len(self._threads) < wanted:
            thread = threading.Thread(target=self._work_on, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work_on(self) -> None:
        while (pending := self._next()) is not None:
            self._run(pending)

    def _next(self) -> Pending | None:
        """Wait for a URL that is due, and for free room; return None after `close`."""
        with self._lock:
            while not self._closed:
                now_s = time.monotonic()
                pending = self._queue.first(now_s)
                if pending is not None and self._held_bytes < self._ahead_bytes:
                    pending.state = State.RUNNING
                    self._work.notify()  # there may be more
                    return pending
                self._work.wait(None if pending is not None else self._queue.wait_s(now_s))
            return None

    def _is_done(self, pending: Pending) -> bool:
        """Wait for a URL; return True if it is done, False if the caller must fetch it."""
        with self._lock:
            while pending.state is not State.DONE and not pending.dropped:
                wait_s = pending.due_s - time.monotonic()
                if pending.state is State.WAITING and wait_s <= 0:
                    pending.state = State.RUNNING
                    return False
                self._change.wait(wait_s if pending.state is State.WAITING else None)
            return True

    def _taken(self, pending: Pending) -> bytes:
        with self._lock:
            self._end_s = time.monotonic() + self._retry_limits.stall_s
            pending.users -= 1
            if not pending.users and not pending.dropped:
                del self._pending[pending.url]
                self._release(pending)
        if pending.error is not None:
            raise pending.error
        if pending.dropped:
            raise _DroppedError(f"{shown(pending.url)} is not wanted any more")
        return pending.data

    def _run(self, pending: Pending) -> None:
        """Fetch a RUNNING URL; afterwards it is DONE, or WAITING for its next attempt."""
        try:
            if not self._may_request(pending):
                return
            pending.blocked_s = 0.0
            data = self._fetch(pending.url, lambda size: self._reserve_room(pending, size))
        except ItemError as error:
            with self._lock:
                self._failed(pending, error)
        except Exception as error:  # noqa: BLE001 - the edge of a thread: `take` raises it
            with self._lock:
                self._done(pending, error=error)
        else:
            with self._lock:
                self._breaker.answered(pending.host, time.monotonic())
                self._done(pending, data=data)

    def _may_request(self, pending: Pending) -> bool:
        """Return whether a URL may be requested now; if not, end or postpone the fetch."""
        with self._lock:
            now_s = time.monotonic()
            error = self._breaker.down(pending.host, now_s)
            if now_s >= self._end_s:
                limit = f"nothing of its shard was fetched for {self._retry_limits.stall_s:g} s"
                error = item_error(FETCH_TIMEOUT, f"{shown(pending.url)} was not tried: {limit}")
            if pending.dropped or error is not None:
                self._done(pending, error=error)
                return False
            paused_until_s = self._breaker.paused_until_s(pending.host)
            if paused_until_s > now_s:
                self._postpone(pending, paused_until_s)
                return False
            return True

    def _reserve_room(self, pending: Pending, size_bytes: int) -> float:
        """Reserve room for bytes of a URL, after a wait if need be; return the seconds waited."""
        started_s = time.monotonic()
        with self._lock:
            while (
                not pending.dropped
                and not pending.wanted
                and self._held_bytes + size_bytes > self._ahead_bytes
            ):
                self._room.wait()
            if pending.dropped:
                raise _DroppedError(f"{shown(pending.url)} is not wanted any more")
            pending.held_bytes += size_bytes
            self._held_bytes += size_bytes
        waited_s = time.monotonic() - started_s
        pending.blocked_s += waited_s
        return waited_s

    def _failed(self, pending: Pending, error: ItemError) -> None:
        now_s = time.monotonic()
        if error.code not in TRANSIENT_CODES:
            self._breaker.answered(pending.host, now_s)
            self._done(pending, error=_with_attempts(error, 1))
            return
        if pending.blocked_s >= _MAX_BLOCKED_S:
            self._postpone(pending, now_s + backoff_s(1))  # not counted as an attempt
            return
        pending.attempts += 1
        self._breaker.failed(pending.host, error, now_s)
        if pending.first_failure_s is None:
            pending.first_failure_s = now_s
        due_s = max(now_s + backoff_s(pending.attempts), self._breaker.paused_until_s(pending.host))
        end_s = min(pending.first_failure_s + self._retry_limits.retry_s, self._end_s)
        down = self._breaker.down(pending.host, now_s) is not None
        if down or pending.attempts >= self._retry_limits.attempts or due_s > end_s:
            self._done(pending, error=_with_attempts(error, pending.attempts))
        else:
            self._postpone(pending, due_s)

    def _postpone(self, pending: Pending, due_s: float) -> None:
        self._release(pending)
        pending.state, pending.due_s = State.WAITING, due_s
        if not pending.dropped:
            self._queue.put(pending)
        self._work.notify()
        self._change.notify_all()

    def _done(self, pending: Pending, *, data: bytes = b"", error: Exception | None = None) -> None:
        if pending.dropped or error is not None:
            self._release(pending)
        pending.state, pending.data, pending.error = State.DONE, data, error
        self._change.notify_all()

    def _release(self, pending: Pending) -> None:
        self._held_bytes -= pending.held_bytes
        pending.held_bytes = 0
        self._work.notify()
        self._room.notify_all()


def _with_attempts(error: ItemError, attempts: int) -> ItemError:
    """Return a copy without the traceback, which would keep the response's bytes in memory."""
    if attempts == 1:
        return item_error(error.code, str(error))
    return item_error(error.code, f"{error} (tried {attempts} times)")

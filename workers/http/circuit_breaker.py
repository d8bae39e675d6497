"""A circuit breaker for each host: when to pause requests to a host, and when to fail them."""

from __future__ import annotations

from dataclasses import dataclass

from clipfleet.errors import ItemError
from clipfleet.workers.backoff import backoff_s
from clipfleet.workers.http.fetcher import BusyError
from clipfleet.workers.item_errors import item_error

_IN_A_ROW = 8  # failures in a row after which the host is at fault, not the URL
_MAX_HOSTS = 10_000  # failing hosts that are kept in memory


@dataclass(kw_only=True, slots=True)
class _HostState:
    since_s: float
    last_s: float = 0.0
    in_a_row: int = 0
    pauses: int = 0
    paused_until_s: float = 0.0
    retry_after_until_s: float = 0.0  # the end of the server's Retry-After
    down_until_s: float = 0.0
    code: str = ""
    message: str = ""


class CircuitBreaker:
    """The failures of each host since its last answer; all times are of one monotonic clock.

    After 8 failures in a row, requests to a host pause; each pause is longer than the last. A host
    that still fails `retry_s` after its first failure is down for `retry_s`: each request fails
    at once. So a dead host costs a shard seconds, not a timeout for each item.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._hosts: dict[str, _HostState] = {}

    def down(self, host: str, now_s: float) -> ItemError | None:
        """Return a host's last failure while the host is down; None otherwise."""
        state = self._hosts.get(host)
        if state is None or now_s >= state.down_until_s:
            return None
        message = (
            f"{host} was not asked again, for it failed {state.in_a_row} times: {state.message}"
        )
        return item_error(state.code, message)

    def paused_until_s(self, host: str) -> float:
        """Return the time from which requests to a host are allowed; 0 without a pause."""
        state = self._hosts.get(host)
        return max(state.paused_until_s, state.retry_after_until_s) if state else 0.0

    def answered(self, host: str, now_s: float) -> None:
        """Record that a host answered, with any status; its Retry-After stays in force."""
        state = self._hosts.pop(host, None)
        if state is not None and state.retry_after_until_s > now_s:
            self._hosts[host] = _HostState(
                since_s=now_s, retry_after_until_s=state.retry_after_until_s
            )

    def failed(self, host: str, error: ItemError, now_s: float) -> None:
        """Record a transient failure."""
        state = self._hosts.setdefault(host, _HostState(since_s=now_s))
        idle_s = now_s - max(state.last_s, state.retry_after_until_s)
        if state.in_a_row < _IN_A_ROW and idle_s >= self._retry_s:
            state.in_a_row, state.since_s = 0, now_s  # the earlier failures are too old to count
        state.in_a_row, state.last_s = state.in_a_row + 1, now_s
        # Not the error itself: its traceback would keep the response's bytes in memory.
        state.code, state.message = error.code, str(error)
        retry_after_s = error.retry_after_s if isinstance(error, BusyError) else None
        if retry_after_s is not None:  # most likely a rate limit: the host is not down
            retry_after_s = min(retry_after_s, self._retry_s)
            state.retry_after_until_s = max(state.retry_after_until_s, now_s + retry_after_s)
        elif state.in_a_row >= _IN_A_ROW and now_s >= state.paused_until_s:
            state.pauses += 1
            end_s = state.since_s + self._retry_s
            state.paused_until_s = min(now_s + backoff_s(state.pauses), end_s)
        if state.in_a_row >= _IN_A_ROW and now_s - state.since_s >= self._retry_s:
            state.down_until_s = now_s + self._retry_s
        if len(self._hosts) > _MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]

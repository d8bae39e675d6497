"""What is known of hosts in trouble: when to ask them again, and when not to ask any more."""

from __future__ import annotations

from dataclasses import dataclass

from clipfleet.errors import ItemError
from workers.backoff import backoff_s
from workers.fetch import BusyError
from workers.read import item_error

_IN_A_ROW = 8  # failures after which it is the host, not the URL
_MAX_HOSTS = 10_000  # in trouble, that are remembered


@dataclass(kw_only=True, slots=True)
class _Trouble:
    since_s: float
    last_s: float = 0.0
    in_a_row: int = 0
    pauses: int = 0
    paused_until_s: float = 0.0
    asked_until_s: float = 0.0  # the server's own Retry-After
    down_until_s: float = 0.0
    code: str = ""
    message: str = ""


class Hosts:
    """Hosts that failed since they last answered; times are those of one monotonic clock.

    After some failures in a row nobody asks a host until a pause is over, each longer than the
    last; once that went on for `retry_s`, it is down for as long, and all that is asked of
    it fails at once: a dead host costs a shard seconds, not a time-out for each item.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._hosts: dict[str, _Trouble] = {}

    def down(self, host: str, now_s: float) -> ItemError | None:
        """Return a host's last failure if it is not worth asking."""
        trouble = self._hosts.get(host)
        if trouble is None or now_s >= trouble.down_until_s:
            return None
        said = f"{host} was not asked again, for it failed {trouble.in_a_row} times: "
        return item_error(trouble.code, said + trouble.message)

    def paused_until_s(self, host: str) -> float:
        """Return when a host may be asked again."""
        trouble = self._hosts.get(host)
        return max(trouble.paused_until_s, trouble.asked_until_s) if trouble else 0.0

    def answered(self, host: str, now_s: float) -> None:
        """Note that a host is well, whatever it answered; what it asked for stands."""
        trouble = self._hosts.pop(host, None)
        if trouble is not None and trouble.asked_until_s > now_s:
            self._hosts[host] = _Trouble(since_s=now_s, asked_until_s=trouble.asked_until_s)

    def failed(self, host: str, error: ItemError, now_s: float) -> None:
        """Note a transient failure."""
        trouble = self._hosts.setdefault(host, _Trouble(since_s=now_s))
        left_alone_s = now_s - max(trouble.last_s, trouble.asked_until_s)
        if trouble.in_a_row < _IN_A_ROW and left_alone_s >= self._retry_s:
            trouble.in_a_row, trouble.since_s = 0, now_s  # a few, long ago, say nothing
        trouble.in_a_row, trouble.last_s = trouble.in_a_row + 1, now_s
        # Not the error itself: its traceback would keep what was read in memory.
        trouble.code, trouble.message = error.code, str(error)
        asked_s = error.retry_after_s if isinstance(error, BusyError) else None
        if asked_s is not None:  # a limit of its rate, most likely: it will answer the others
            asked_s = min(asked_s, self._retry_s)
            trouble.asked_until_s = max(trouble.asked_until_s, now_s + asked_s)
        elif trouble.in_a_row >= _IN_A_ROW and now_s >= trouble.paused_until_s:
            trouble.pauses += 1
            end_s = trouble.since_s + self._retry_s
            trouble.paused_until_s = min(now_s + backoff_s(trouble.pauses), end_s)
        if trouble.in_a_row >= _IN_A_ROW and now_s - trouble.since_s >= self._retry_s:
            trouble.down_until_s = now_s + self._retry_s
        if len(self._hosts) > _MAX_HOSTS:
            del self._hosts[next(iter(self._hosts))]

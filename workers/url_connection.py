"""Connections to hosts that are allowed: to a checked address, within a limited time."""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
import time
from typing import Any

from workers.url_addresses import Address, Resolve, addresses
from workers.url_policy import DEFAULT_PORTS, Target

_IDLE_S = 10.0  # a server closes what is not used for long; most wait longer than this
_MAX_ADDRESSES = 4  # of a host, that are tried


class Deadline:
    """The end of one fetch, whatever is waited for in it, and the longest wait for one thing."""

    def __init__(self, total_s: float, *, step_s: float) -> None:
        self._end_s = time.monotonic() + total_s
        self._step_s = step_s

    def left_s(self, at_most_s: float | None = None) -> float:
        """Return how long the next step may take.

        Raises:
            TimeoutError: No time is left.
        """
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time for it is over")
        return min(left_s, self._step_s if at_most_s is None else at_most_s)

    def extend(self, seconds: float) -> None:
        """Give back what was waited for by no fault of the server's."""
        self._end_s += seconds


class _Reader(io.RawIOBase):
    """What http.client reads an answer from: every single wait is within the deadline.

    A socket's own timeout is for one `recv`: a byte every few seconds would never end.
    """

    def __init__(self, connection: CheckedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self._socket = plain
        # The socket counts this: http.client closes it before the answer is read, if nothing
        # is to follow, and it stays open until this is closed.
        self._raw = plain.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int | None:  # collections.abc.Buffer: CPython 3.12
        self._socket.settimeout(self._connection.deadline.left_s())
        return self._raw.readinto(buffer)


class _BoundedReader(io.BufferedReader):
    """Reads no more than it is told: for a chunk of -1 bytes http.client reads without an end."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of less than no bytes")
        return super().read(size)


class _TimedSocket:
    """The part of a socket that http.client uses, with a deadline for everything."""

    def __init__(self, connection: CheckedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self.plain = plain

    def sendall(self, data: bytes) -> None:
        self.plain.settimeout(self._connection.deadline.left_s())
        self.plain.sendall(data)  # its timeout is for the whole

    def makefile(self, _mode: str) -> io.BufferedReader:
        return _BoundedReader(_Reader(self._connection, self.plain))

    def close(self) -> None:
        self.plain.close()


class CheckedConnection(http.client.HTTPConnection):
    """A connection to a target's host, which asks for its addresses once and checks them all."""

    def __init__(
        self,
        target: Target,
        *,
        deadline: Deadline,
        connect_timeout_s: float,
        context: ssl.SSLContext,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        super().__init__(target.host, target.port)
        self.default_port = DEFAULT_PORTS[target.scheme]  # that the header Host leaves out
        self.target = target
        self.deadline = deadline
        self._connect_timeout_s = connect_timeout_s
        self._context = context
        self._resolve = resolve

    def connect(self) -> None:
        """Connect to the first checked address that answers.

        Raises:
            ItemError: The name leads nowhere, or to where nothing may be fetched from.
            OSError: No address answers, or not as a server of that name.
        """
        found = addresses(self.target, self._resolve)[:_MAX_ADDRESSES]
        plain = self._connected(found)
        try:
            if self.target.scheme == "https":
                plain.settimeout(self.deadline.left_s())
                plain = self._context.wrap_socket(
                    plain, server_hostname=self.target.host.strip("[]")
                )
        except BaseException:
            plain.close()
            raise
        self.sock: Any = _TimedSocket(self, plain)

    def _connected(self, found: list[Address]) -> socket.socket:
        failure: OSError = ConnectionError("it has no address")
        for family, address in found:
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                plain.settimeout(self.deadline.left_s(self._connect_timeout_s))
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                plain.close()
                failure = error
            else:
                return plain
        raise failure

    def is_usable(self) -> bool:
        """Return whether another request may be sent: nothing was closed or said meanwhile."""
        if self.sock is None:
            return False
        poll = select.poll()  # select.select takes no descriptor above 1,023
        poll.register(self.sock.plain, select.POLLIN)
        return not poll.poll(0)


class IdleConnections:
    """Connections that wait for the next request to the same host; for many threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[tuple[float, CheckedConnection]] = []  # the newest last

    def take(self, target: Target, deadline: Deadline) -> CheckedConnection | None:
        """Return a connection to the target's host and port, if one is left."""
        wanted = (target.scheme, target.host, target.port)
        while True:
            found = self._pop(wanted)
            if found is None:
                return None
            since_s, connection = found
            if time.monotonic() - since_s < _IDLE_S and connection.is_usable():
                connection.deadline = deadline
                return connection
            connection.close()

    def _pop(self, wanted: tuple[str, str, int]) -> tuple[float, CheckedConnection] | None:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                target = self._idle[index][1].target
                if (target.scheme, target.host, target.port) == wanted:
                    return self._idle.pop(index)
        return None

    def keep(self, connection: CheckedConnection) -> None:
        """Take a connection whose answer was read to its end."""
        with self._lock:
            self._idle.append((time.monotonic(), connection))
            surplus = [self._idle.pop(0)] if len(self._idle) > self._limit else []
        for _, oldest in surplus:
            oldest.close()

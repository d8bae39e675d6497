"""HTTP connections to checked addresses of allowed hosts, within one deadline."""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
import time
from typing import Any

from clipfleet.workers.http.policy import DEFAULT_PORTS, Target
from clipfleet.workers.http.resolve import Address, Resolve, addresses

_MAX_IDLE_S = 10.0  # firewalls and servers drop idle connections; most wait longer than this


class Deadline:
    """The time limits of one fetch: for the whole fetch, and for each step of it."""

    def __init__(self, total_s: float, *, step_s: float) -> None:
        self._end_s = time.monotonic() + total_s
        self._step_s = step_s

    def left_s(self, at_most_s: float | None = None) -> float:
        """Return the seconds that the next step may take, at most `at_most_s`.

        Raises:
            TimeoutError: The fetch has no time left.
        """
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time for it is over")
        return min(left_s, self._step_s if at_most_s is None else at_most_s)

    def extend(self, seconds: float) -> None:
        """Move the end of the fetch by the seconds that this process did not read."""
        self._end_s += seconds


class _Reader(io.RawIOBase):
    """A socket's stream in which each `recv` gets the time that is left of the whole fetch.

    A socket's own timeout limits one `recv` only: a server that sends one byte every few seconds
    never reaches it.
    """

    def __init__(self, connection: CheckedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self._socket = plain
        # This stream keeps the socket open: before the last body of a connection is read,
        # http.client closes its socket.
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
    """A reader that refuses unlimited reads: http.client reads so for a chunk of -1 bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of less than no bytes")
        return super().read(size)


class _TimedSocket:
    """The part of a socket that http.client uses, with the deadline applied."""

    def __init__(self, connection: CheckedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self.plain = plain

    def sendall(self, data: bytes) -> None:
        self.plain.settimeout(self._connection.deadline.left_s())
        self.plain.sendall(data)  # the timeout limits the whole call

    def makefile(self, _mode: str) -> io.BufferedReader:
        return _BoundedReader(_Reader(self._connection, self.plain))

    def close(self) -> None:
        self.plain.close()


class CheckedConnection(http.client.HTTPConnection):
    """A connection to a target's host; the name is resolved once and its addresses are checked."""

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
        self.default_port = DEFAULT_PORTS[target.scheme]  # the Host header omits this port
        self.target = target
        self.deadline = deadline
        self.idle_since_s = 0.0
        self._connect_timeout_s = connect_timeout_s
        self._context = context
        self._resolve = resolve

    def connect(self) -> None:
        """Connect to the first checked address that answers.

        TLS names the host, not the address, and checks the certificate for the host.

        Raises:
            ItemError: The name has no address, or has one that is not allowed.
            OSError: No address answers, or the certificate is not one of this host.
        """
        plain = self._connected(addresses(self.target, self._resolve))
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
        """Return whether the connection can take another request."""
        if self.sock is None or time.monotonic() - self.idle_since_s > _MAX_IDLE_S:
            return False
        poll = select.poll()  # select.select takes no descriptor above 1,023
        poll.register(self.sock.plain, select.POLLIN)
        return not poll.poll(0)  # neither the end of the stream nor an unexpected byte


class IdleConnections:
    """Open connections that wait for the next request to their host; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[CheckedConnection] = []  # the newest last

    def take(self, target: Target, deadline: Deadline) -> CheckedConnection | None:
        """Return a usable connection to the target's scheme, host and port; None without one."""
        while (connection := self._pop(target)) is not None:
            if connection.is_usable():
                connection.deadline = deadline
                return connection
            connection.close()
        return None

    def _pop(self, target: Target) -> CheckedConnection | None:
        with self._lock:
            for connection in reversed(self._idle):
                if connection.target.origin == target.origin:
                    self._idle.remove(connection)
                    return connection
        return None

    def keep(self, connection: CheckedConnection) -> None:
        """Keep a connection whose answer was read to its end; close the oldest above the limit."""
        connection.idle_since_s = time.monotonic()
        with self._lock:
            self._idle.append(connection)
            oldest = self._idle.pop(0) if len(self._idle) > self._limit else None
        if oldest is not None:
            oldest.close()

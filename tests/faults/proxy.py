"""A TCP proxy before Redis, for a network that fails in the middle."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading

_CHUNK_BYTES = 1 << 16
_MESSAGE = re.compile(rb"\$\d+\r\n\{")  # Redis's answer when a worker takes a message
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Proxy:
    """Forwards a port of its own to another, until its connections are cut or swallowed."""

    def __init__(self, port: int, to_port: int) -> None:
        self.port = port
        self._to_port = to_port
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._deaf: set[socket.socket] = set()
        self.to_lose = 0  # messages that `lose_messages` has not lost yet

    def open(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones until `open`."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            self._listener.close()
            self._listener = None
        for pair in self._pairs:
            for end in pair:
                _reset(end)
        self._pairs.clear()

    def swallow(self) -> None:
        """Lose what the present connections say from now on, as a firewall that forgot them."""
        for pair in self._pairs:
            self._deaf.update(pair)

    def lose_messages(self, count: int) -> None:
        """Lose the next messages on their way to workers, and then each one's connection."""
        self.to_lose = count

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `cut`
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to_port))
                except ConnectionRefusedError:  # Redis is being restarted
                    near.close()
                    continue
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other direction's end, or `cut`
            while data := source.recv(_CHUNK_BYTES):
                if self.to_lose and _MESSAGE.match(data):
                    self.to_lose -= 1
                    self._deaf.update((source, sink))
                if source not in self._deaf:
                    sink.sendall(data)
            if source not in self._deaf:
                sink.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
        end.close()

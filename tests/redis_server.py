"""A redis-server for one test, which the test may kill, restart and pause."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis

from clipfleet.tasks.local.redis_server import server_command
from tests.integration.support import PATIENCE_S, wait_until

PASSWORD = "open-sesame"
KEEPS_NOTHING = ("--save", "", "--appendonly", "no")
KEEPS_ALL = ("--save", "", "--appendonly", "yes")


def free_port() -> int:
    """Return a port of this machine that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RedisServer:
    """A server with a password on a port of its own, which stays the same when it is restarted."""

    def __init__(self, folder: Path, options: Sequence[str] = KEEPS_NOTHING) -> None:
        self.port = free_port()
        folder.mkdir(exist_ok=True)
        listen = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        access = ["--requirepass", PASSWORD, "--logfile", str(folder / "log")]
        self._command = [*server_command(), *listen, *access, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return url_of(self.port)

    def start(self) -> None:
        """Start, and wait until it has read its data and answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_until(self._answers, what="redis-server answers")

    def stop(self) -> None:
        """Send SIGTERM, and wait until it has ended."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def sleep(self) -> None:
        """Stop it: connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server ended: its log is in its folder"
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:  # not up yet, or reading its data
            return False


def url_of(port: int) -> str:
    """Return the broker URL of a server, or of a proxy before it, on a port."""
    return f"redis://:{PASSWORD}@127.0.0.1:{port}/0"

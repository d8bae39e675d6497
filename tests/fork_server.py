"""A process that has imported what a worker imports, and forks the workers of tests from itself.

The imports are half of what the start of a worker costs. A forked worker runs the same program as
`python -m`, with its own arguments, environment and folder. Its children are started as always.

    python -m tests.fork_server SOCKET
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[1]
_IMPORTED = ("clipfleet.cli.main", "clipfleet.tasks.worker.main", "celery.apps.worker")
_ENVIRONMENT = dict(os.environ)  # before a test changes it
_REQUEST_BYTES = 1 << 20
_FILES = 4096  # more than a process has open


@dataclass(frozen=True, kw_only=True)
class _Request:
    program: str  # a module
    arguments: list[str]
    environment: dict[str, str]
    folder: str


class ForkedProcess:
    """A process that the server forked; it has the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: IO[bytes],
    ) -> None:
        """Run a module as `python -m` does, in a session of its own, with its output in a file."""
        request = _Request(
            program=program,
            arguments=list(arguments),
            environment=dict(environment),
            folder=str(Path.cwd()),
        )
        self._exit, status = os.pipe()  # has the exit code when the process has ended
        server = _server()
        socket.send_fds(server, [json.dumps(asdict(request)).encode()], [log.fileno(), status])
        os.close(status)
        self.pid = int(server.recv(_REQUEST_BYTES))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait_ms(0)

    def wait(self, timeout: float | None = None) -> int:
        returncode = self._wait_ms(None if timeout is None else timeout * 1000)
        if returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _wait_ms(self, timeout_ms: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._exit, select.POLLIN)
            if poll.poll(timeout_ms):
                self.returncode = int(os.read(self._exit, 16))
                os.close(self._exit)
        return self.returncode


@cache
def _server() -> socket.socket:
    """Start the server of this process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=_ROOT,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    return ours


def _serve(requests: socket.socket) -> None:
    """Fork what is asked for, and write each exit code into its pipe, until nobody can ask."""
    for name in _IMPORTED:
        importlib.import_module(name)
    ended, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup)
    statuses: dict[int, int] = {}  # a pipe's end by process
    while True:
        ready, _, _ = select.select([requests.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            _reap(statuses)
        if requests.fileno() in ready:
            message, files, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 2)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                _become(_Request(**json.loads(message)), log=files[0])
                return
            os.close(files[0])
            statuses[pid] = files[1]
            requests.send(str(pid).encode())


def _reap(statuses: dict[int, int]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = statuses.pop(pid)
        os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(pipe)


def _become(request: _Request, *, log: int) -> None:
    """Run a module as `python -m` does, in this process."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, _FILES)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    paths = request.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    sys.argv = [request.program, *request.arguments]
    runpy.run_module(request.program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))

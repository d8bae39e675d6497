"""The fleet of the soak: a Redis to restart, and workers to kill and start again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.exceptions import RedisError

from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import connect
from clipfleet.tasks.local.child_processes import end, start_child_process
from clipfleet.tasks.local.fleet import log_tail, worker_command
from clipfleet.tasks.local.redis_server import server_command
from clipfleet.workers.environment import environment_of

STOP_S = 30.0
_START_S = 30.0
_POLL_S = 0.02


class SoakRedis:
    """A redis-server with an append-only file, on a Unix socket; `pid` changes with a restart."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.url = f"redis+socket://{folder / 'redis.sock'}"
        self.away_s: list[float] = []  # downtime of each restart
        self.process = self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def restart(self, number: signal.Signals) -> None:
        """End the server with a signal, and start it again."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(STOP_S)
        self.process = self._start()
        self.away_s.append(time.monotonic() - began_s)

    def close(self) -> None:
        end(self.process, grace_s=STOP_S)

    def _start(self) -> subprocess.Popen[bytes]:
        socket = self._folder / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(self._folder)]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        with open(self._folder / "log", "ab") as log:
            server = start_child_process([*server_command(), *options], output=log)
        deadline_s = time.monotonic() + _START_S
        with connect(self.url) as client:
            while True:
                try:
                    client.ping()
                    return server
                except (RedisError, OSError):
                    if time.monotonic() > deadline_s or server.poll() is not None:
                        raise
                time.sleep(_POLL_S)


class SoakFleet:
    """Worker processes of `clipfleet worker`; `supervise` restarts those that ended.

    The first worker is never killed, so that its memory can be sampled over the whole job.
    """

    def __init__(self, settings: Settings, count: int, folder: Path, chance: random.Random) -> None:
        folder.mkdir()
        self._settings = settings
        self._chance = chance
        self._killed: set[int] = set()  # pids of workers
        self.logs = [folder / f"worker-{number}.log" for number in range(count)]
        self.counts: Counter[str] = Counter()  # kills and starts by kind
        self.ended: list[str] = []  # exits of workers that were not killed
        self.workers = [self._start(log) for log in self.logs]

    def supervise(self) -> None:
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.counts["started again"] += 1
                if worker.pid not in self._killed:
                    words = log_tail(self.logs[number])
                    self.ended.append(f"exit code {worker.returncode}: {words}")
                self.workers[number] = self._start(self.logs[number])

    def kill_one(self) -> None:
        """Kill a worker with all its processes, or only the child that holds the engine."""
        worker = self._chance.choice(self.workers[1:] or self.workers)
        child = child_of(worker.pid)
        if child is not None and self._chance.random() < 0.5:
            os.kill(child, signal.SIGKILL)
            self.counts["children killed"] += 1
        elif worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            self._killed.add(worker.pid)
            self.counts["workers killed"] += 1

    def pids(self) -> Iterator[tuple[str, int, bool]]:
        """Yield the role, the pid, and whether the growth of its memory is measured."""
        for number, worker in enumerate(self.workers):
            yield "worker", worker.pid, number == 0
            child = child_of(worker.pid)
            if child is not None:
                yield "engine's child", child, number == 0

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers:
            end(worker, grace_s=STOP_S)

    def _start(self, log_path: Path) -> subprocess.Popen[bytes]:
        with open(log_path, "ab") as log:
            command = worker_command(self._settings)
            return start_child_process(
                command, output=log, environment=environment_of(self._settings)
            )


def child_of(pid: int) -> int | None:
    """Return the worker's child process that holds the engine, or None without one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    except OSError:  # a process ended meanwhile
        return None
    return None


@contextmanager
def started(redis: SoakRedis, fleet: SoakFleet) -> Iterator[None]:
    """Stop both at the end, also after an exception."""
    try:
        yield
    finally:
        fleet.stop()
        redis.close()

"""The processes of a running command: their memory by role, and the CPU time of all together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil

INTERVAL_S = 0.25
MIB = 1 << 20
ROLES = ("command", "worker", "engine process", "decoder", "Redis")


def role_of(words: str, *, is_root: bool) -> str | None:
    """Return the role of a process by its command line; None if it has none of ours."""
    if is_root:
        return "command"
    if "decoder_process" in words:
        return "decoder"
    if "spawn_main" in words:
        return "engine process"
    if "redis" in words or "valkey" in words:
        return "Redis"
    return "worker" if "clipfleet" in words and " worker " in words else None


class Family:
    """Samples a process and its descendants from a thread while it is open; a context manager.

    `peaks` is the largest resident memory of a process by role, in MiB; memory that decoders and
    engine processes share counts in both. `cpu` has times (seconds since 1970), and the CPU time of
    all until then.
    """

    def __init__(self, pid: int) -> None:
        self.peaks: dict[str, float] = {}
        self.cpu: list[tuple[float, float]] = []
        self._root = psutil.Process(pid)
        self._roles: dict[int, str | None] = {}
        self._cpu_s: dict[int, float] = {}  # of each process, also when it has ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Family:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            for process in self._processes():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
                    self._sample(process)
            self.cpu.append((time.time(), sum(self._cpu_s.values())))

    def _processes(self) -> Iterator[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            yield self._root
            yield from self._root.children(recursive=True)

    def _sample(self, process: psutil.Process) -> None:
        if self._roles.get(process.pid) is None:  # a new process has its parent's command line
            words = " ".join(process.cmdline())
            self._roles[process.pid] = role_of(words, is_root=process.pid == self._root.pid)
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
        self._cpu_s[process.pid] = times.user + times.system
        if role := self._roles[process.pid]:
            self.peaks[role] = max(self.peaks.get(role, 0.0), memory.rss / MIB)

"""A local fleet: worker processes on this machine, for the duration of one command."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from clipfleet.errors import EngineError
from clipfleet.gpus import VISIBLE_VARIABLE
from clipfleet.settings import Settings, cores
from clipfleet.tasks.local.child_processes import ask_to_end, end_all, start_child_process
from clipfleet.tasks.scratch import scratch_folder
from clipfleet.workers.environment import environment_of

MAX_STARTS = 3  # of one worker; then the others continue without it
STOP_GRACE_S = 10.0  # at most: a user waits for the end
VISIBILITY_TIMEOUT_S = 10  # at most: a local worker cannot be merely unreachable
STOP_EXTRA_S = 8.0  # after the grace period, for Celery's own shutdown
_REFUSED = 2  # exit code of a worker that does not start
_LOG_LINES = 5

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Worker:
    number: int
    log_path: Path
    gpu: str | None
    process: subprocess.Popen[bytes]
    starts: int = 1


class LocalFleet:
    """Workers for one tower, started and stopped together; a context manager.

    They share the machine's cores, and are killed with this process. `gpus` has a value of
    CUDA_VISIBLE_DEVICES for each worker; None: it sees what this process sees.
    """

    def __init__(self, settings: Settings, gpus: Sequence[str | None]) -> None:
        self._gpus = gpus
        self._settings = _with_short_waits(share_of_cores(settings, len(gpus)))
        self._workers: list[_Worker] = []
        self._open = ExitStack()

    def __enter__(self) -> LocalFleet:
        self._folder = self._open.enter_context(scratch_folder())
        for number, gpu in enumerate(self._gpus):
            log_path = Path(self._folder, f"worker-{number}.log")
            process = self._start(number, log_path, gpu)
            self._workers.append(
                _Worker(number=number, log_path=log_path, gpu=gpu, process=process)
            )
        return self

    def check(self) -> None:
        """Restart workers that ended; a worker that ended `MAX_STARTS` times is dropped.

        Raises:
            EngineError: One does not start, or all ended `MAX_STARTS` times; with the log's end.
        """
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            if code == _REFUSED:
                raise EngineError(_ended(worker, code))
            if worker.starts >= MAX_STARTS:
                self._drop(worker, code)
                continue
            worker.process = self._start(worker.number, worker.log_path, worker.gpu)
            worker.starts += 1

    def _drop(self, worker: _Worker, code: int) -> None:
        """Continue without a worker, whose GPU may be broken."""
        self._workers.remove(worker)
        if not self._workers:
            raise EngineError(_ended(worker, code))
        log.warning("%s; %d others go on", _ended(worker, code), len(self._workers))

    def last_reason(self) -> str | None:
        """Return the last reason in a worker's log, if there is one."""
        reasons = (last_reason(worker.log_path) for worker in self._workers)
        return next((reason for reason in reasons if reason), None)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to all; `__exit__` waits for them."""
        ask_to_end(self._processes)

    def __exit__(self, *_: object) -> None:
        with self._open:
            end_all(self._processes, grace_s=self._settings.stop_grace_s + STOP_EXTRA_S)

    @property
    def _processes(self) -> list[subprocess.Popen[bytes]]:
        return [worker.process for worker in self._workers]

    def _start(self, number: int, log_path: Path, gpu: str | None) -> subprocess.Popen[bytes]:
        environment = environment_of(self._settings, number=number)
        environment["TMPDIR"] = self._folder  # what a killed worker leaves goes with the folder
        if gpu is not None:
            environment[VISIBLE_VARIABLE] = gpu
        with open(log_path, "ab") as log:
            command = worker_command(self._settings)
            return start_child_process(command, output=log, environment=environment)


def _ended(worker: _Worker, code: int) -> str:
    location = "" if worker.gpu is None else f" on GPU {worker.gpu}"
    times = "once" if worker.starts == 1 else f"{worker.starts} times"
    return f"a worker{location} ended {times}, with exit code {code}: {log_tail(worker.log_path)}"


def worker_command(settings: Settings, *, build_if_missing: bool = False) -> list[str]:
    """Return the command line of a worker; its other settings are in its environment."""
    command = [sys.executable, "-m", "clipfleet", "worker"]
    command += ["--tower", str(settings.tower), "--model", str(settings.model)]
    command += ["--output", str(settings.output)]
    return [*command, "--build-if-missing"] if build_if_missing else command


def share_of_cores(settings: Settings, count: int) -> Settings:
    """Return settings in which each of `count` workers has its share of the cores."""
    if count <= 1:
        return settings
    share = max(1, cores() // count)
    threads = {name: getattr(settings, name) or share for name in ("decoders", "engine_threads")}
    return settings.model_copy(update=threads)


def _with_short_waits(settings: Settings) -> Settings:
    """Return settings with which a dead worker's messages are delivered again soon."""
    limits = {
        "stop_grace_s": min(settings.stop_grace_s, STOP_GRACE_S),
        "visibility_timeout_s": min(settings.visibility_timeout_s, VISIBILITY_TIMEOUT_S),
    }
    return settings.model_copy(update=limits)


def last_reason(log_path: Path) -> str | None:
    """Return the last reason in a worker's log."""
    for line in reversed(log_path.read_text(encoding="utf-8", errors="replace").splitlines()):
        if '"reason"' in line:
            return _shown(line)
    return None


def log_tail(log_path: Path) -> str:
    """Return the end of a worker's log as one line: of each record, its reason or its event."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(map(_shown, lines[-_LOG_LINES:])) or "it said nothing"


def _shown(line: str) -> str:
    try:
        fields = json.loads(line)
        return str(fields.get("reason") or fields["event"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return line

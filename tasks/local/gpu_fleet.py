"""A GPU fleet: one process starts, watches and stops a worker for each GPU of this machine.

Each is a complete `clipfleet worker` that sees one GPU. This process loads no engine, and its
workers are killed if it is killed.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from clipfleet.gpus import VISIBLE_VARIABLE
from clipfleet.settings import Settings
from clipfleet.tasks.broker.redis_client import check_broker
from clipfleet.tasks.local.child_processes import end_all, start_child_process
from clipfleet.tasks.local.engine_build import check_before_build
from clipfleet.tasks.local.fleet import STOP_EXTRA_S, share_of_cores, worker_command
from clipfleet.tasks.worker.logs import set_up_logs
from clipfleet.workers.environment import environment_of
from clipfleet.workers.preflight import preflight

_POLL_S = 0.2
_KILLED = 1  # exit code for a worker that a signal ended
_STOPPED_EARLY = (-signal.SIGTERM, 130)  # 130: interrupted during the build of its engine

log = logging.getLogger(__name__)


def run_gpu_workers(
    settings: Settings, gpus: Sequence[str], *, build_if_missing: bool = False
) -> int:
    """Run a worker on each GPU until SIGTERM or SIGINT, or until all have ended.

    `gpus` are values of CUDA_VISIBLE_DEVICES. Return 0 if all were stopped, otherwise the largest
    exit code.

    Raises:
        UsageError: The model, the output folder or a setting is not fit for use.
        BrokerError: Redis does not answer.
    """
    if build_if_missing:
        check_before_build(settings)
    else:
        preflight(settings)
        check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    set_up_logs(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    shared = share_of_cores(settings, len(gpus))
    command = worker_command(shared, build_if_missing=build_if_missing)
    log.info("workers start", extra={"gpus": list(gpus)})
    running = {gpu: _start(command, shared, n, gpu) for n, gpu in enumerate(gpus)}
    codes = _watch(running, stop)
    codes += _stop(running, grace_s=settings.stop_grace_s + STOP_EXTRA_S)
    log.info("workers stopped", extra={"exit_codes": codes})
    return max(codes)


def _start(
    command: Sequence[str], settings: Settings, number: int, gpu: str
) -> subprocess.Popen[bytes]:
    environment = {**environment_of(settings, number=number), VISIBLE_VARIABLE: gpu}
    return start_child_process(command, output=sys.stderr.buffer, environment=environment)


def _watch(running: dict[str, subprocess.Popen[bytes]], stop: threading.Event) -> list[int]:
    """Remove workers that end by themselves, until `stop` is set; return their exit codes."""
    codes = []
    while running and not stop.wait(_POLL_S):
        for gpu, process in list(running.items()):
            if process.poll() is not None:
                del running[gpu]
                codes.append(_code(process.returncode))
                fields = {"gpu": gpu, "exit_code": process.returncode, "others": len(running)}
                log.error("worker ended", extra=fields)
    return codes


def _stop(running: dict[str, subprocess.Popen[bytes]], *, grace_s: float) -> list[int]:
    """Let every worker finish its shard; return their exit codes."""
    codes = end_all(list(running.values()), grace_s=grace_s)
    # A worker that was stopped before it handled SIGTERM held no message.
    return [0 if code in _STOPPED_EARLY else _code(code) for code in codes]


def _code(code: int) -> int:
    return _KILLED if code < 0 else code

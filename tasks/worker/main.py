"""The worker: Celery's consumer in this process, the engine in spawned children.

This process talks to Redis and survives a child's death; see 0003-worker-pool.md and
0028-engine-processes.md in docs/explanation/adr.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from billiard.process import active_children
from celery import current_app, signals

from clipfleet.gpus import VISIBLE_VARIABLE
from clipfleet.messages import queue_name
from clipfleet.settings import Settings
from clipfleet.tasks.app import make_app
from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.broker_url import redacted
from clipfleet.tasks.broker.redis_client import check_broker, is_local
from clipfleet.tasks.broker.security_check import log_security_warnings
from clipfleet.tasks.broker.visibility_renewal import VisibilityRenewal
from clipfleet.tasks.metrics.server import serve_worker_metrics
from clipfleet.tasks.submit.reconcile import Reconciler
from clipfleet.tasks.tracing import check_tracing, flush_traces
from clipfleet.tasks.worker.engine_processes import with_engine_processes
from clipfleet.tasks.worker.fatal_error import FatalErrorReport, end_worker
from clipfleet.tasks.worker.heartbeat import start_heartbeat
from clipfleet.tasks.worker.logs import set_up_logs
from clipfleet.tasks.worker.presence_step import PresenceStep
from clipfleet.tasks.worker.watchdog import watchdog, working
from clipfleet.workers.embedder import close_embedder, open_embedder
from clipfleet.workers.environment import SAFE_PATH_VARIABLE, worker_name
from clipfleet.workers.preflight import preflight

STOPPED, BROKEN = 0, 1

log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> int:
    """Serve the queue of `settings.tower` until SIGTERM; return the exit code, 0 if stopped.

    Raises:
        UsageError: The model, the output folder or a setting is not fit for use.
        BrokerError: Redis does not answer.
        EngineError: The engine did not load.
        GpuLostError: The GPU failed, at the start or later; the messages are back in Redis.
    """
    card = preflight(settings)
    settings = with_engine_processes(settings)
    check_broker(settings.redis_url, allow_eviction=settings.allow_eviction)
    check_tracing(settings)
    if settings.heartbeat_file:
        start_heartbeat(settings.heartbeat_file)
    os.environ[SAFE_PATH_VARIABLE] = "1"  # for the children
    set_up_logs(settings)
    fatal_error = FatalErrorReport()
    if not is_local(settings.redis_url):
        log_security_warnings(settings.redis_url)
    worker = _celery_worker(settings)
    log.info(
        "worker starts",
        extra={
            "worker": worker.hostname,
            "architecture": card.architecture,
            "model": card.identity,
            "redis": redacted(settings.redis_url),
            "gpus": os.environ.get(VISIBLE_VARIABLE, "all"),
            "engine_processes": settings.engine_processes,
        },
    )
    with (
        serve_worker_metrics(settings),
        Reconciler(settings, card),
        watchdog(settings.shard_deadline_s, settings.engine_processes),
    ):
        worker.start()
    fatal_error.check()
    log.info("worker stopped", extra={"worker": worker.hostname})
    return STOPPED if _stopping else BROKEN


def _celery_worker(settings: Settings) -> Any:
    app = make_app(settings)
    app.steps["consumer"].add(VisibilityRenewal)
    app.steps["consumer"].add(PresenceStep)
    return app.Worker(
        hostname=worker_name(settings),
        queues=[queue_name(settings.tower or "img", settings.queue_prefix)],
        loglevel="WARNING",  # of billiard, before our logs are set up in the child
        quiet=True,
        without_mingle=True,
        without_gossip=True,
    )


_stopping = False  # after SIGTERM or SIGINT

# A second signal may interrupt the handlers of the first, in the same thread. With a lock that is
# not re-entrant, the worker would deadlock.
signals.worker_shutting_down.lock = threading.RLock()  # type: ignore[attr-defined]


@signals.setup_logging.connect
def _on_logging(**_: Any) -> None:
    """Keep Celery from setting up its own logs; `run_worker` and `_on_child` set up ours."""


@signals.worker_shutting_down.connect
def _on_stop(**_: Any) -> None:
    """Start the grace period; a shard that still runs at its end goes back to the queue.

    Celery treats a killed child as a lost worker, and puts its messages back.
    """
    global _stopping  # noqa: PLW0603 - this process's, set by its signal handler
    if not _stopping:
        _stopping = True
        timer = threading.Timer(settings_of(current_app).stop_grace_s, _kill_children)
        timer.daemon = True
        timer.start()


def _kill_children() -> None:
    for child in active_children():
        log.warning("grace period over, shard handed back", extra={"pid": child.pid})
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)


@signals.worker_process_init.connect
def _on_child(**_: Any) -> None:
    """Load the engine, once in the life of a child.

    The worker stops if this fails, also if the child cannot open the watchdog's memory: every task
    would fail.
    """
    started_s = time.monotonic()
    settings = settings_of(current_app)
    set_up_logs(settings)
    try:
        working()
        embedder = open_embedder(settings)
        if settings.metrics_port:
            from clipfleet.tasks.metrics.counters import start_counting

            start_counting(embedder)
    except Exception as error:  # noqa: BLE001 - the edge of the process
        prefix = f"the engine of {settings.model} did not load: "
        end_worker(error, event="engine not loaded, worker stops", prefix=prefix)
    else:
        card = embedder.card
        seconds = round(time.monotonic() - started_s, 3)
        log.info("engine loaded", extra={"engine": card.engine, "seconds": seconds})


@signals.worker_process_shutdown.connect
def _on_child_exit(**_: Any) -> None:
    flush_traces(settings_of(current_app))
    close_embedder()

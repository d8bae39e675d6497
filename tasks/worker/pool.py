"""The worker's pool: Celery's process pool, which notices the end of a child at once.

The pool also ends a worker whose children die again and again while they load the engine. Celery
alone would start another child each time.
"""

# ruff: noqa: SLF001 - the hooks are private

from __future__ import annotations

from typing import Any

from billiard.common import human_status
from celery import current_app
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker import state

from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.worker.fatal_error import stop_worker

_POLL_S = 0.05
_LOAD_DEATHS = 3  # in a row; a single one may be chance, as of the kernel's memory killer


class _Processes(AsynPool):
    """Celery's pool, whose hooks are called in the worker's main thread."""

    _load_deaths = 0  # since an engine was loaded

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loaded: set[int] = set()  # pids
        super().__init__(*arguments, **options)

    def on_process_alive(self, pid: int) -> None:
        """Note that a child has loaded its engine: it says so before it takes a message."""
        super().on_process_alive(pid)
        self._loaded.add(pid)
        self._load_deaths = 0

    def _process_cleanup_queues(self, proc: Any) -> None:
        """Count a child's end before its engine was loaded; Celery calls this once for a child."""
        super()._process_cleanup_queues(proc)  # type: ignore[misc]
        if proc.pid in self._loaded:
            self._loaded.remove(proc.pid)
        elif state.should_stop is None:
            self._load_deaths += 1
            if self._load_deaths == _LOAD_DEATHS:
                _stop_without_engine(proc.exitcode)

    def _repopulate_pool(self, exitcodes: list[int]) -> None:
        if state.should_stop is None:  # a new child would load its engine in vain
            super()._repopulate_pool(exitcodes)  # type: ignore[misc]

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        """Look for the end of a child that has closed its files."""
        super()._event_process_exit(hub, proc)  # type: ignore[misc]
        self._poll_exit(hub, proc)

    def flush(self) -> None:
        """Drop the jobs that were not sent to a child; their messages go back to Redis.

        Celery also drops the jobs that a child has received and not yet confirmed. The child runs
        them nevertheless, and then waits half a minute for its result to be read before it, and
        with it the worker, ends.
        """
        pool: Any = self
        sent = {
            key: job
            for key, job in pool._cache.items()
            if not job._accepted and job._write_to is not None and job not in pool.outbound_buffer
        }
        for job in sent.values():
            writer = job._writer()
            if writer is not None:  # a part was sent
                pool._flush_writer(job._write_to, writer)
        super().flush()
        pool._cache.update((key, job) for key, job in sent.items() if job._write_to._is_alive())

    def _poll_exit(self, hub: Any, proc: Any) -> None:
        """Notice a child's end soon after its files were closed; Celery's timer takes 5 s."""
        self.maintain_pool()
        if proc.exitcode is None:
            hub.call_later(_POLL_S, self._poll_exit, hub, proc)


def _stop_without_engine(exit_code: int) -> None:
    stop_worker(
        f"the engine of {settings_of(current_app).model} did not load: its process died "
        f"{_LOAD_DEATHS} times in a row while it loaded the engine, the last time: "
        f"{human_status(exit_code)}; run `clipfleet doctor`, look in `dmesg` whether the memory "
        "was full, and leave out --decode gpu (CLIPFLEET_DECODE) if it is set",
        event="engine not loaded, worker stops",
    )


class TaskPool(PreforkPool):
    """Celery's prefork pool with `_Processes`."""

    Pool = _Processes

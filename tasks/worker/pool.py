"""The worker's pool: Celery's process pool, which here notices the end of a child at once.

This overrides two hooks of Celery's pool: Celery calls one when a child closes its files, just
before its end, and the other when the worker stops, or its connection is lost.
"""

# ruff: noqa: SLF001 - the hooks are private

from __future__ import annotations

from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as PreforkPool

_POLL_S = 0.05


class _Processes(AsynPool):
    def _event_process_exit(self, hub: Any, proc: Any) -> None:
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


class TaskPool(PreforkPool):
    """Celery's prefork pool with `_Processes`."""

    Pool = _Processes

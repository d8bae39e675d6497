"""The worker's pool: Celery's of processes, which sees a child's end at once.

This rests on two hooks of Celery's pool: one that is called when a child closes its files, as it
does just before its end, and one that is called when the worker stops, or its connection is lost.
"""

# ruff: noqa: SLF001 - there is no public way to them

from __future__ import annotations

from typing import Any

from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool as PreforkPool

_LOOK_AGAIN_S = 0.05


class _Processes(AsynPool):
    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        super()._event_process_exit(hub, proc)  # type: ignore[misc]
        self._look_again(hub, proc)

    def flush(self) -> None:
        """Forget the work that no child was given; it goes back to Redis.

        Celery forgets, too, what a child was given and has not yet said to have begun. The child
        does it all the same, and waits half a minute for somebody to take its result before it
        ends, and the worker with it.
        """
        pool: Any = self
        given = {
            key: job
            for key, job in pool._cache.items()
            if not job._accepted and job._write_to is not None and job not in pool.outbound_buffer
        }
        for job in given.values():
            writer = job._writer()
            if writer is not None:  # it was given a part
                pool._flush_writer(job._write_to, writer)
        super().flush()
        pool._cache.update((key, job) for key, job in given.items() if job._write_to._is_alive())

    def _look_again(self, hub: Any, proc: Any) -> None:
        """See a child's end soon after its files were closed, not by a timer of 5 s."""
        self.maintain_pool()
        if proc.exitcode is None:
            hub.call_later(_LOOK_AGAIN_S, self._look_again, hub, proc)


class TaskPool(PreforkPool):
    """Celery's pool, whose `Pool` are the processes."""

    Pool = _Processes

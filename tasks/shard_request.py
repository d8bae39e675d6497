"""A shard as a request of Celery's, in the worker's parent, which sees how its child ends."""

from __future__ import annotations

from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from clipfleet.settings import load_settings
from tasks.embed import names_of
from tasks.refusals import refuse
from tasks.retry import lost_reason, times_lost


class ShardRequest(Request):
    """Refuses a shard that ends its process for the last time; else its message goes back."""

    def on_failure(self, exc_info: Any, *rest: Any, **more: Any) -> None:
        """Refuse the shard if this was the last attempt, then go Celery's way."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, (WorkerLostError, SystemExit)):
            self._count_lost(error)
        super().on_failure(exc_info, *rest, **more)

    def _count_lost(self, error: BaseException) -> None:
        settings = load_settings()
        lost = times_lost(self.message.delivery_info) + 1  # the transport counts this one later
        if lost >= settings.shard_attempts:
            names = names_of(self.id, self.kwargs)
            refuse(settings, *names, reason=lost_reason(lost, error))
            self.acknowledge()  # so that `on_failure` puts nothing back

"""A shard's request in the worker's parent process, which sees how its child ends."""

from __future__ import annotations

from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from clipfleet.tasks.broker.amqp import settings_of
from clipfleet.tasks.broker.consumer import arguments_of, used_headers
from clipfleet.tasks.broker.refusals import refuse
from clipfleet.tasks.embed_shard import names_of
from clipfleet.tasks.index_shard import names_of as index_names_of
from clipfleet.tasks.retry_policy import lost_reason, times_lost


class ShardRequest(Request):
    """Refuses a shard whose process died too often; otherwise its message is queued again."""

    def __init__(self, message: Any, *, headers: Any = None, **options: Any) -> None:
        """Make the request of a message's arguments and of the headers that clipfleet uses.

        In protocol 1 the body has the headers. In both protocols the body may have callbacks, a
        chain or a chord; no shard has any.
        """
        args, kwargs = arguments_of(message)
        used = used_headers(message.headers if headers is None else headers)
        options |= {"headers": used, "body": (args, kwargs, {}), "decoded": True}
        super().__init__(message, **options)

    def on_failure(self, exc_info: Any, *rest: Any, **more: Any) -> None:
        """Count a lost process, unless the worker is stopping; then let Celery continue."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, (WorkerLostError, SystemExit)) and not _stopping():
            self._count_lost(error)
        super().on_failure(exc_info, *rest, **more)

    def _names(self) -> tuple[str, str]:
        """Return what a refusal calls the shard, and its dataset."""
        return names_of(self.id, self.kwargs)

    def _count_lost(self, error: BaseException) -> None:
        settings = settings_of(self.task.app)
        lost = times_lost(self.message.delivery_info) + 1
        if lost < settings.shard_attempts:
            self.message.channel.process_lost(self.message.delivery_tag)
            return
        names = self._names()
        refuse(settings, *names, reason=lost_reason(lost, error))
        self.acknowledge()  # so that `on_failure` puts nothing back


class IndexShardRequest(ShardRequest):
    """The request of a shard of an index."""

    def _names(self) -> tuple[str, str]:
        return index_names_of(self.id, self.kwargs)


def _stopping() -> bool:
    """Return whether the worker is stopping, and may kill its child after the grace period."""
    exit_codes = (state.should_stop, state.should_terminate)  # each may be 0
    return any(code is not None and code is not False for code in exit_codes)

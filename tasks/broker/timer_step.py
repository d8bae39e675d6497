"""A step of Celery's consumer that does something again and again, and ends well."""

from __future__ import annotations

from typing import Any

from celery import bootsteps


class TimerStep(bootsteps.StartStopStep):
    """The base of a step with a timer in the worker's event loop, which each connection starts."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        """Start the timer, at each connection."""
        self._entry = self.start_timer(consumer)

    def stop(self, consumer: Any) -> None:
        """End the timer, and say so if the worker stops; otherwise the connection was lost."""
        if self._entry is None:
            return
        self._entry.cancel()
        if consumer.blueprint.state == bootsteps.CLOSE:  # type: ignore[attr-defined]
            self.worker_stops(consumer)

    def start_timer(self, consumer: Any) -> Any:
        """Return the new entry of the consumer's timer."""
        raise NotImplementedError

    def worker_stops(self, consumer: Any) -> None:
        """Do what is due when the worker stops, and the connection is still there."""
        raise NotImplementedError

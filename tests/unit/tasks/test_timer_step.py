"""A step of Celery's consumer with a timer, in the consumer's place a fake one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import bootsteps

from clipfleet.tasks.broker.timer_step import TimerStep


class Step(TimerStep):
    """A step that records its end."""

    stopped = False

    def start_timer(self, consumer: Any) -> Any:
        return consumer.timer

    def worker_stops(self, consumer: Any) -> None:
        self.stopped = True


@pytest.mark.parametrize(
    ("state", "stops"),
    [(bootsteps.CLOSE, True), (bootsteps.RUN, False)],  # type: ignore[attr-defined]
    ids=["the worker stops", "the connection is lost"],
)
def test_a_step_ends_its_timer_and_learns_only_of_a_worker_that_stops(
    state: int, stops: bool
) -> None:
    consumer = SimpleNamespace(timer=Mock(), blueprint=SimpleNamespace(state=state))
    step = Step(Mock())
    step.stop(consumer)  # before a connection there is nothing to end
    assert not step.stopped
    step.start(consumer)
    step.stop(consumer)
    consumer.timer.cancel.assert_called_once_with()
    assert step.stopped is stops

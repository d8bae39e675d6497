"""The tally of an engine process: what it did for a task, and the time that each stage took.

Metrics and traces are made of it (`clipfleet.tasks.metrics`, `clipfleet.tasks.tracing`). A shard's
part has its seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from clipfleet.storage.format.results import Embedded
from clipfleet.storage.format.stage_seconds import StageSeconds

Stage = Literal["plan", "read", "decode", "wait", "tokenise", "engine", "write"]

VECTOR = "vector"  # the outcome of an item that has one; other outcomes are error classes

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class StageTime:
    """The time of a stage: `seconds` of work, between two times in seconds since the epoch.

    Decoders work side by side, so their `seconds` may exceed the time between.
    """

    begin_s: float
    end_s: float
    seconds: float = 0.0


class Tally:
    """The tally since `clear`, for one thread.

    `stages` has the time of each stage, `outcomes` the number of items by outcome. `engine_items`
    are the engine's inputs; its calls had room for `engine_room`.
    """

    def __init__(self) -> None:
        self._inner_s = 0.0  # of the stages inside the one that is measured
        self.clear()

    def clear(self) -> None:
        """Begin a new tally."""
        self.stages: dict[Stage, StageTime] = {}
        self.outcomes: Counter[str] = Counter()
        self.engine_items = 0
        self.engine_room = 0

    def add(self, stage: Stage, seconds: float, *, begin_s: float) -> None:
        """Add work that was done between `begin_s`, in seconds since the epoch, and now."""
        spent = self._spent(stage, begin_s)
        spent.end_s = time.time()
        spent.seconds += seconds

    def seconds(self) -> StageSeconds:
        """Return the seconds of each stage until now, without `write`: the part is not written."""
        spent = {name: round(one.seconds, 3) for name, one in self.stages.items()}
        spent.pop("write", None)
        return StageSeconds(**spent)

    def _spent(self, stage: Stage, begin_s: float) -> StageTime:
        return self.stages.setdefault(stage, StageTime(begin_s=begin_s, end_s=begin_s))

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Add the time of a block; what a stage inside it takes does not count."""
        begin_s, clock_s, outer_s = time.time(), time.perf_counter(), self._inner_s
        self._inner_s = 0.0
        try:
            yield
        finally:
            whole_s = time.perf_counter() - clock_s
            self.add(stage, max(0.0, whole_s - self._inner_s), begin_s=begin_s)
            self._inner_s = outer_s + whole_s

    def pulled(self, stage: Stage, values: Iterable[T]) -> Iterator[T]:
        """Return an iterator over values that adds the time that they take to come."""
        return _Pulled(self, self._spent(stage, time.time()), iter(values))

    def count_inner(self, seconds: float) -> None:
        """Leave so many seconds out of the stage that is measured now."""
        self._inner_s += seconds

    def count_calls(self, inputs: int, *, call_size: int) -> None:
        """Count inputs that the engine takes in calls of up to `call_size`."""
        self.engine_items += inputs
        self.engine_room += -(-inputs // call_size) * call_size

    def count_items(self, embedded: Embedded) -> None:
        """Count items by their outcome."""
        self.outcomes[VECTOR] += len(embedded.items)
        self.outcomes.update(failure.error for failure in embedded.failures)


class _Pulled(Iterator[T]):
    """No generator: that would keep each value until the next one is asked for."""

    def __init__(self, tally: Tally, spent: StageTime, values: Iterator[T]) -> None:
        self._tally = tally
        self._spent = spent
        self._values = values

    def __next__(self) -> T:
        begin_s = time.perf_counter()
        try:
            return next(self._values)
        finally:
            seconds = time.perf_counter() - begin_s
            self._spent.seconds += seconds
            self._spent.end_s = time.time()
            self._tally.count_inner(seconds)

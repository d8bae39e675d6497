"""How long a shard waited for its inputs, and how long for its engine."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import TypeVar

from clipfleet.storage.format.parts import StageSeconds

_T = TypeVar("_T")


class StageClock:
    """Measures a shard's stages, from the time when it is made."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._inputs_s = 0.0

    def inputs(self, made: Iterable[_T]) -> Generator[_T, None, None]:
        """Yield the same, and count the time in which each one is waited for."""
        iterator = iter(made)
        try:
            while True:
                asked_s = time.monotonic()
                try:
                    one = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._inputs_s += time.monotonic() - asked_s
                yield one
                del one  # the next one may use its memory
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def seconds(self) -> StageSeconds:
        """Return the seconds until now; what was no wait for inputs was the engine's."""
        whole_s = time.monotonic() - self._begin_s
        return StageSeconds(
            inputs=round(self._inputs_s, 3), engine=round(max(0.0, whole_s - self._inputs_s), 3)
        )

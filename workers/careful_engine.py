"""An engine that is given one input at a time, and says which of them it cannot take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import GpuLostError, GpuMemoryError, ItemError, TransientError, UsageError
from clipfleet.jobs import ENGINE_FAILED
from workers.engines.base import Array, Engine

_NO_FAULT_OF_AN_ITEM = (TransientError, UsageError, GpuLostError, GpuMemoryError, OSError)


class CarefulEngine(Engine):
    """Another engine, to be called with one input or none; closing it is its owner's."""

    max_batch = 1

    def __init__(self, engine: Engine, *, attempts: int) -> None:
        self.card = engine.card
        self._engine = engine
        self._attempts = attempts

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Return the features of (1, …) inputs, or of none.

        Raises:
            ItemError: The engine failed on this input, again and again, and takes an empty one.
            EngineError: It fails on an empty one, too, or for want of memory.
            GpuLostError: This process can run nothing any more.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                return self._engine(inputs)
            except _NO_FAULT_OF_AN_ITEM:  # noqa: PERF203 - a few attempts
                raise
            except Exception as error:
                self._engine(np.zeros_like(inputs))  # an engine that fails on this is broken
                if attempt == self._attempts:
                    reason = f"the engine failed on it alone {attempt} times: {error}"
                    raise ItemError(ENGINE_FAILED, reason) from error
        raise AssertionError("an attempt neither returned nor raised")

    def try_out(self) -> None:
        """Have the engine take an empty input.

        Raises:
            EngineError, …: As it does of any input, then: it is broken.
        """
        empty = self.empty_inputs(1)
        empty[:] = 0
        self._engine(empty)

    def close(self) -> None:
        """Nothing is held."""

"""The measured speed of a TensorRT engine's execution slots."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile
from clipfleet.workers.engines.tensorrt.execution_slot import ExecutionSlot, run_batches

Piece = tuple[
    ExecutionSlot, Array, NDArray[np.float32]
]  # a slot, its inputs, the rows for its features

_SAMPLE_ITEMS = 64
_SAMPLE_IDS = 100  # every vocabulary has more


def items_per_second(
    slots: Sequence[ExecutionSlot], sample: Array, seconds: float, *, dim: int
) -> float:
    """Return the items a second of slots of one size, busy for `seconds`.

    `sample` is inputs (n, …), n a multiple of that size; `dim` is the length of a feature vector.

    Raises:
        EngineError: A batch failed.
    """
    size = slots[0].size
    features = np.empty((size, dim), dtype=np.float32)
    started_s = time.perf_counter()
    batches = 0

    def pieces() -> Iterator[Piece]:
        nonlocal batches
        starts = cycle(range(0, len(sample), size))
        for slot, start in zip(cycle(slots), starts):
            if time.perf_counter() - started_s >= seconds and batches >= len(slots):
                return
            batches += 1
            yield slot, sample[start : start + size], features

    run_batches(pieces())
    return batches * size / (time.perf_counter() - started_s)


def sample_inputs(file: EngineFile) -> Array:
    """Return inputs for some of an engine's largest batches; no zeros, which may be quicker."""
    spec, largest = file.input, file.sizes.largest
    count = largest * -(-_SAMPLE_ITEMS // largest)
    random = np.random.default_rng(0)
    shape = (count, *file.input_row)
    if np.dtype(spec.dtype).kind == "f":
        return random.normal(size=shape).astype(spec.dtype)
    return random.integers(1, _SAMPLE_IDS, size=shape).astype(spec.dtype)

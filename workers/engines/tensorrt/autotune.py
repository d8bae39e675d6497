"""How many items a second some lanes of a TensorRT engine compute."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile
from clipfleet.workers.engines.tensorrt.execution_slot import Lane, drive

Piece = tuple[Lane, Array, NDArray[np.float32]]  # a lane, its inputs, where the features go

_SAMPLE_ITEMS = 64
_SAMPLE_IDS = 100  # every vocabulary has more


def items_per_second(lanes: Sequence[Lane], sample: Array, seconds: float, *, dim: int) -> float:
    """Return the items a second of lanes of one size, fed without a pause for some time.

    `sample` is (n, …) inputs, n a multiple of that size; the features are (n, dim).

    Raises:
        EngineError: A batch failed.
    """
    size = lanes[0].size
    features = np.empty((size, dim), dtype=np.float32)
    started_s = time.perf_counter()
    batches = 0

    def pieces() -> Iterator[Piece]:
        nonlocal batches
        starts = cycle(range(0, len(sample), size))
        for lane, start in zip(cycle(lanes), starts):
            if time.perf_counter() - started_s >= seconds and batches >= len(lanes):
                return
            batches += 1
            yield lane, sample[start : start + size], features

    drive(pieces())
    return batches * size / (time.perf_counter() - started_s)


def sample_inputs(file: EngineFile) -> Array:
    """Return some of an engine's largest batches, none of them 0: zeros may be quicker."""
    spec, largest = file.input, file.sizes.largest
    count = largest * -(-_SAMPLE_ITEMS // largest)
    random = np.random.default_rng(0)
    shape = (count, *file.input_row)
    if np.dtype(spec.dtype).kind == "f":
        return random.normal(size=shape).astype(spec.dtype)
    return random.integers(1, _SAMPLE_IDS, size=shape).astype(spec.dtype)

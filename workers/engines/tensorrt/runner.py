"""Batches through a TensorRT engine, several in flight, driven by one thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError, GpuMemoryError
from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.host_copy import HostCopy
from clipfleet.workers.engines.cuda.pinned_memory import PinnedArrays
from clipfleet.workers.engines.tensorrt.autotune import Piece, items_per_second, sample_inputs
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile, ProfileTakenError
from clipfleet.workers.engines.tensorrt.execution_slot import Lane, drive

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

log = logging.getLogger(__name__)

LANES_TRIED = (1, 2, 4, 8)
WORTH_MORE_LANES = 1.05  # times the items a second
MEASURED_S = 0.15
_WARM_UP_S = 0.1  # an idle GPU runs at a lower clock


class Runner:
    """An engine's lanes: as many of its largest batch as pay, and one of each smaller size.

    One call at a time, from any thread.
    """

    def __init__(self, file: EngineFile, *, contexts: int = 0, cuda_graphs: bool = True) -> None:
        """Take `contexts` lanes; 0: measure 1, 2, 4 and 8 and keep what still gained 5 %.

        Raises:
            GpuMemoryError: The GPU has no room for the first lane, or for `contexts` of them.
            GpuLostError: The GPU is lost.
            EngineError: The engine does not run, or not in several contexts.
        """
        self._file = file
        self._graphs = cuda_graphs
        self._copy = HostCopy()
        self._pinned = PinnedArrays()
        self._lanes: list[Lane] = []
        self._small: list[Lane] = []
        self._closed = False
        self.items_s: float | None = None  # with the lanes that it measured and kept
        self._lock = Lock()
        self._largest = file.sizes.largest
        with ExitStack() as stack:
            stack.callback(self.close)
            stack.enter_context(cuda.naming_a_lost_gpu())  # before it closes
            self._grow(contexts or LANES_TRIED[0])
            if not contexts:
                self._find_best()
            if file.dynamic:
                self._add_small()
            stack.pop_all()

    @property
    def contexts(self) -> int:
        """Batches of the largest size in flight at once."""
        return len(self._lanes)

    @property
    def uses_graphs(self) -> bool:
        """Whether every lane launches its kernels as one CUDA graph."""
        return all(lane.uses_graph for lane in self._lanes + self._small)

    def empty_inputs(self, count: int) -> Array:
        """Return room for `count` inputs that need not be copied on the host; any content.

        They are read until `run` returns.
        """
        with self._lock:
            self._check_open()
            return self._pinned.empty((count, *self._file.input_row), self._file.input.dtype)

    def run(self, inputs: Array, features: NDArray[np.float32]) -> None:
        """Write the features (n, D) of n inputs of the engine's dtype, n of any size.

        Raises:
            EngineError: It failed; GpuLostError where the GPU is why.
        """
        with self._lock:
            self._check_open()
            with cuda.naming_a_lost_gpu():
                drive(self._pieces(inputs, features))

    def run_on_gpu(self, source: int, target: int, count: int) -> None:
        """Compute `count` inputs at an address on the GPU; the features go to another there.

        Raises:
            EngineError: It failed; GpuLostError where the GPU is why.
        """
        with self._lock:
            self._check_open()
            row_in, row_out = self._lanes[0].row_bytes
            try:
                for lane, start, size in self._cuts(count):
                    lane.launch_on_gpu(source + start * row_in, target + start * row_out, size)
            finally:
                cuda.synchronize()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine {self._file.path} is closed: load it again")

    def _cuts(self, count: int) -> Iterator[tuple[Lane, int, int]]:
        """Yield the lanes for `count` items, with the first item and how many.

        The rest that fills no largest batch goes first, to the smallest lane that holds it.
        """
        rest = count % self._largest
        small = next((lane for lane in self._small if 0 < rest <= lane.size), None)
        whole = count - rest if small else count
        if small:
            yield small, whole, rest
        ring = cycle(self._lanes)
        for start in range(0, whole, self._largest):
            yield next(ring), start, min(self._largest, whole - start)

    def _pieces(self, inputs: Array, features: NDArray[np.float32]) -> Iterator[Piece]:
        for lane, start, size in self._cuts(len(inputs)):
            yield lane, inputs[start : start + size], features[start : start + size]

    def _lane(self, size: int) -> Lane:
        return Lane(self._file, size, graph=self._graphs, copy=self._copy, pinned=self._pinned)

    def _grow(self, count: int) -> None:
        while len(self._lanes) < count:
            self._lanes.append(self._lane(self._largest))
        self._choose_wait()

    def _choose_wait(self) -> None:
        """Sleep where other batches keep the GPU busy: the core is better used for decoding."""
        for lane in self._lanes:
            lane.wait_with(blocking=len(self._lanes) > 1)

    def _find_best(self) -> None:
        """Grow while it pays."""
        sample = sample_inputs(self._file)
        self._speed(sample, _WARM_UP_S)
        best = self._speed(sample, MEASURED_S)
        kept = 1
        for count in LANES_TRIED[1:]:
            try:
                self._grow(count)
                speed = self._speed(sample, MEASURED_S)
            except (GpuMemoryError, ProfileTakenError) as error:
                cuda.synchronize()  # a lost GPU is no reason to go on with fewer
                log.info("no more than %d contexts: %s", kept, error)
                break
            if speed < best * WORTH_MORE_LANES:
                break
            best, kept = speed, count
        while len(self._lanes) > kept:
            self._lanes.pop().close()
        self._choose_wait()
        self.items_s = best
        log.info("%s: %d contexts, %.0f items/s", self._file.path.name, kept, best)

    def _speed(self, sample: Array, seconds: float) -> float:
        return items_per_second(self._lanes, sample, seconds, dim=self._file.output_row[0])

    def _add_small(self) -> None:
        """Take a lane for each power of two below the largest batch; a rest is filled up to it."""
        size = 1
        while size < self._largest:
            if size >= self._file.sizes.smallest:
                try:
                    self._small.append(self._lane(size))
                except (GpuMemoryError, ProfileTakenError) as error:
                    cuda.synchronize()
                    log.info("no context for batches of %d: %s", size, error)
                    return
            size *= 2

    def close(self) -> None:
        """Free all lanes, after the call that runs; the engine itself is its file's."""
        with self._lock:
            self._closed = True
            self._copy.close()  # first: its threads write to the lanes' memory
            while self._small:
                self._small.pop().close()
            while self._lanes:
                self._lanes.pop().close()
            self._pinned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

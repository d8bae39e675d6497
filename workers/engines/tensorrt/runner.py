"""Runs batches on a TensorRT engine: several in flight, from one thread."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import cycle
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError, GpuMemoryError
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.base import Array, Progress
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.host_copy import HostCopy
from clipfleet.workers.engines.cuda.jpeg_decoder import JpegDecoder
from clipfleet.workers.engines.cuda.pinned_memory import PinnedArrays
from clipfleet.workers.engines.cuda.resize import Resizer
from clipfleet.workers.engines.tensorrt.autotune import Piece, items_per_second, sample_inputs
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile, ProfileTakenError
from clipfleet.workers.engines.tensorrt.execution_slot import ExecutionSlot, run_batches
from clipfleet.workers.images.decoder import Picture

log = logging.getLogger(__name__)

SLOT_COUNTS = (1, 2, 4, 8)
MIN_SPEEDUP = 1.05  # times the items a second
MEASURED_S = 0.15
_WARM_UP_S = 0.1  # an idle GPU runs at a lower clock
# Of the JPEG files of one batch, decoded: their own size says little about the GPU's memory.
_MAX_DECODED_BYTES = 256 << 20


class Runner(Closing):
    """An engine's execution slots: some for its largest batch, and one for each smaller size.

    One call at a time, from any thread.
    """

    def __init__(self, file: EngineFile, *, contexts: int = 0, cuda_graphs: bool = True) -> None:
        """Open `contexts` slots; 0: try 1, 2, 4 and 8, as long as each step gains 5 %.

        Raises:
            GpuMemoryError: The GPU has no room for the first slot, or for `contexts` of them.
            GpuLostError: The GPU is lost.
            EngineError: The engine does not run, or not in `contexts` contexts.
        """
        self._file = file
        self._graphs = cuda_graphs
        self._copy = HostCopy()
        self._pinned = PinnedArrays()
        self._slots: list[ExecutionSlot] = []
        self._small: list[ExecutionSlot] = []
        self._in_flight: deque[ExecutionSlot] = deque()  # with pictures, the oldest first
        self._resizer: Resizer | None = None
        self._closed = False
        self.items_s: float | None = None  # the measured speed; None if `contexts` was given
        self._lock = RLock()  # the inputs of `run_stream` come from `empty_inputs`
        self._largest = file.sizes.largest
        with ExitStack() as stack:
            stack.callback(self.close)
            stack.enter_context(cuda.detect_lost_gpu())  # innermost: it runs before `close`
            self._grow(contexts or SLOT_COUNTS[0])
            if not contexts:
                self._choose_slot_count()
            if file.dynamic:
                self._add_small()
            stack.pop_all()

    @property
    def contexts(self) -> int:
        """The number of batches of the largest size in flight at once."""
        return len(self._slots)

    @property
    def uses_graphs(self) -> bool:
        """Whether each slot launches its kernels as one CUDA graph."""
        return all(slot.uses_graph for slot in self._slots + self._small)

    def empty_inputs(self, count: int) -> Array:
        """Return an uninitialised array for `count` inputs, in pinned memory.

        The GPU reads it until `run` returns.
        """
        with self._lock:
            self._check_open()
            return self._pinned.empty((count, *self._file.input_row), self._file.input.dtype)

    def run(self, inputs: Array, features: NDArray[np.float32]) -> None:
        """Write to `features` (n, D) those of inputs (n, …) of the engine's dtype, n of any size.

        Raises:
            EngineError: The engine failed; GpuLostError if the GPU is lost.
        """
        with self._lock:
            self._check_open()
            with cuda.detect_lost_gpu():
                run_batches(self._pieces(inputs, features))

    def run_stream(
        self,
        inputs: Iterable[Array],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> int:
        """Run one array of inputs after the other, as `run` does; return how many inputs they have.

        Batches of the last array are in flight while the next one is made. `progress` is called
        after the start of each array's batches.

        Raises:
            EngineError: The engine failed; GpuLostError if the GPU is lost.
        """
        count = 0

        def pieces() -> Iterator[Piece]:
            nonlocal count
            for given in inputs:
                start, count = count, count + len(given)
                yield from self._pieces(given, features[start:count])
                progress(len(given))

        with self._lock:
            self._check_open()
            with cuda.detect_lost_gpu():
                run_batches(pieces())
        return count

    def run_pictures(
        self,
        pictures: Iterable[Picture],
        features: NDArray[np.float32],
        progress: Progress,
        jpegs: JpegDecoder | None = None,
    ) -> list[int]:
        """Write the features of n pictures to the first n rows of `features`.

        The GPU resizes the pictures, and `jpegs` decodes those that are JPEG files. Each is freed
        when its batch is done, in order. `progress` is called after the start of each batch.
        Return the positions of the files that the GPU does not decode: their rows are wrong.

        Raises:
            EngineError: The engine failed; GpuLostError if the GPU is lost.
        """
        with self._lock:
            self._check_open()
            resizer = self._resizer = self._resizer or Resizer(self._file.input_row[-1])
            with cuda.detect_lost_gpu():
                try:
                    return self._run_pictures(pictures, features, resizer, progress, jpegs)
                except BaseException:
                    for slot in self._in_flight:
                        slot.abandon()
                    raise
                finally:
                    self._in_flight.clear()

    def _run_pictures(
        self,
        pictures: Iterable[Picture],
        features: NDArray[np.float32],
        resizer: Resizer,
        progress: Progress,
        jpegs: JpegDecoder | None,
    ) -> list[int]:
        start, ring, left = 0, cycle(self._slots), list[int]()
        for batch in _batches(pictures, self._largest):
            fits = (slot for slot in self._small if len(batch) <= slot.size)
            slot = next(fits, None) or next(ring)
            while slot in self._in_flight:
                self._in_flight.popleft().collect()
            self._in_flight.append(slot)  # first: if the launch fails, some copies are in flight
            rows = features[start : start + len(batch)]
            left += [start + n for n in slot.launch_pictures(batch, rows, resizer, jpegs)]
            start += len(batch)
            progress(len(batch))
        while self._in_flight:
            self._in_flight.popleft().collect()
        return left

    def collect_done(self) -> None:
        """Free the pictures of the batches that are done, during `run_pictures`."""
        while self._in_flight and self._in_flight[0].is_done:
            self._in_flight.popleft().collect()

    def run_on_gpu(self, source: int, target: int, count: int) -> None:
        """Compute `count` inputs at GPU address `source`; the features go to address `target`.

        Raises:
            EngineError: The engine failed; GpuLostError if the GPU is lost.
        """
        with self._lock:
            self._check_open()
            row_in, row_out = self._slots[0].row_bytes
            try:
                for slot, start, size in self._cuts(count):
                    slot.launch_on_gpu(source + start * row_in, target + start * row_out, size)
            finally:
                cuda.synchronize()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine {self._file.path} is closed: load it again")

    def _cuts(self, count: int) -> Iterator[tuple[ExecutionSlot, int, int]]:
        """Yield (slot, first item, number of items) for `count` items.

        The remainder below a largest batch goes first, to the smallest slot with room for it.
        """
        rest = count % self._largest
        small = next((slot for slot in self._small if 0 < rest <= slot.size), None)
        whole = count - rest if small else count
        if small:
            yield small, whole, rest
        ring = cycle(self._slots)
        for start in range(0, whole, self._largest):
            yield next(ring), start, min(self._largest, whole - start)

    def _pieces(self, inputs: Array, features: NDArray[np.float32]) -> Iterator[Piece]:
        for slot, start, size in self._cuts(len(inputs)):
            yield slot, inputs[start : start + size], features[start : start + size]

    def _slot(self, size: int) -> ExecutionSlot:
        return ExecutionSlot(
            self._file, size, graph=self._graphs, copy=self._copy, pinned=self._pinned
        )

    def _grow(self, count: int) -> None:
        while len(self._slots) < count:
            self._slots.append(self._slot(self._largest))
        self._choose_wait()

    def _choose_wait(self) -> None:
        """Wait asleep for large batches, or if others keep the GPU busy: decoders need the core."""
        asleep = len(self._slots) > 1 or self._largest > 1
        for slot in self._slots:
            slot.wait_with(blocking=asleep)

    def _choose_slot_count(self) -> None:
        """Add slots as long as each step gains `MIN_SPEEDUP`."""
        sample = sample_inputs(self._file)
        self._speed(sample, _WARM_UP_S)
        best = self._speed(sample, MEASURED_S)
        kept = 1
        for count in SLOT_COUNTS[1:]:
            try:
                self._grow(count)
                speed = self._speed(sample, MEASURED_S)
            except (GpuMemoryError, ProfileTakenError) as error:
                cuda.synchronize()  # raises GpuLostError: do not go on with fewer slots
                log.info("no more than %d contexts: %s", kept, error)
                break
            if speed < best * MIN_SPEEDUP:
                break
            best, kept = speed, count
        while len(self._slots) > kept:
            self._slots.pop().close()
        self._choose_wait()
        self.items_s = best
        log.info("%s: %d contexts, %.0f items/s", self._file.path.name, kept, best)

    def _speed(self, sample: Array, seconds: float) -> float:
        return items_per_second(self._slots, sample, seconds, dim=self._file.output_row[0])

    def _add_small(self) -> None:
        """Open a slot for each power of two below the largest batch."""
        size = 1
        while size < self._largest:
            if size >= self._file.sizes.smallest:
                try:
                    self._small.append(self._slot(size))
                except (GpuMemoryError, ProfileTakenError) as error:
                    cuda.synchronize()
                    log.info("no context for batches of %d: %s", size, error)
                    return
            size *= 2

    def close(self) -> None:
        """Free all slots, after the current call; the `EngineFile` stays open."""
        with self._lock:
            self._closed = True
            self._copy.close()  # first, for its threads write to the slots' memory
            while self._small:
                self._small.pop().close()
            while self._slots:
                self._slots.pop().close()
            self._pinned.close()
            if self._resizer is not None:
                self._resizer.close()


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Yield batches of up to `size` pictures; fewer if their JPEG files are too large decoded."""
    batch: list[Picture] = []
    decoded_bytes = 0
    for picture in pictures:
        own_bytes = 3 * picture.width * picture.height if picture.file_bytes else 0
        if batch and decoded_bytes + own_bytes > _MAX_DECODED_BYTES:
            yield batch
            batch, decoded_bytes = [], 0
        batch.append(picture)
        decoded_bytes += own_bytes
        if len(batch) == size:
            yield batch
            batch, decoded_bytes = [], 0
    if batch:
        yield batch

"""One batch on its way through the GPU: copied there, computed, copied back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError, GpuLostError, GpuMemoryError
from clipfleet.workers.engines.base import Array
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.graph import Graph
from clipfleet.workers.engines.cuda.host_copy import HostCopy
from clipfleet.workers.engines.cuda.pinned_memory import PinnedArrays, address_of
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile

log = logging.getLogger(__name__)


class Lane:
    """An execution context for batches of one size, with its own stream, buffers and CUDA graph.

    A lane holds one batch at a time; several lanes keep the GPU busy while the host copies.
    """

    def __init__(
        self, file: EngineFile, size: int, *, graph: bool, copy: HostCopy, pinned: PinnedArrays
    ) -> None:
        """Take all that is needed, run once, and capture that as a graph if `graph`.

        `copy` brings a batch into the lane's pinned memory, unless it lies in `pinned`.

        Raises:
            GpuMemoryError: The GPU has no room for it.
            EngineError: The engine does not run.
        """
        self.size = size
        self.uses_graph = False
        self._file = file
        self._copy = copy
        self._pinned = pinned
        self._batch: Array | None = None  # in flight, where the GPU reads it by itself
        self._rows: NDArray[np.float32] | None = None  # where the batch in flight belongs
        self._context: Any = None
        with ExitStack() as stack:
            self._stream = stack.enter_context(cuda.Stream())
            self._take_buffers(stack)
            stack.callback(self._free_context)
            self._context = file.context(
                size,
                source=self._device_input.handle,
                target=self._device_output.handle,
                stream=self._stream,
            )
            self._copy_in = self._copying_in()
            self._enqueue()  # what TensorRT does at a shape's first run cannot be captured
            self._stream.synchronize()
            self._start = self._captured(stack) if graph else self._enqueue
            self.wait_with(blocking=False)
            file.forget_messages()
            self._closing = stack.pop_all()

    def _take_buffers(self, stack: ExitStack) -> None:
        file = self._file
        pinned_input = cuda.PinnedBuffer((self.size, *file.input_row), file.input.dtype)
        self._pinned_input = stack.enter_context(pinned_input)
        pinned_output = cuda.PinnedBuffer((self.size, *file.output_row), file.output.dtype)
        self._pinned_output = stack.enter_context(pinned_output)
        self._device_input = stack.enter_context(cuda.DeviceBuffer(pinned_input.size_bytes))
        self._device_output = stack.enter_context(cuda.DeviceBuffer(pinned_output.size_bytes))
        self._given, self._made = pinned_input.array, pinned_output.array
        self._events = {
            blocking: stack.enter_context(cuda.Event(blocking=blocking))
            for blocking in (False, True)
        }

    def _captured(self, stack: ExitStack) -> Callable[[], None]:
        """Return what launches the graph, or enqueues plainly where there can be none."""
        try:
            graph = stack.enter_context(Graph(self._stream, self._enqueue))
            start = partial(_launch, cuda.runtime().cudaGraphLaunch, graph.handle, self._stream)
            start()
            self._stream.synchronize()
        except (GpuLostError, GpuMemoryError):
            raise
        except EngineError as error:
            cuda.synchronize()  # a lost GPU is no reason to go on without a graph
            log.warning(
                "no CUDA graph for %s, its kernels go one by one: %s", self._file.path, error
            )
            return self._enqueue
        self.uses_graph = True
        return start

    def _enqueue(self) -> None:
        made, source = self._pinned_output, self._device_output.handle
        self._execute()
        cuda.copy_async(made.handle, source, made.size_bytes, "DeviceToHost", self._stream)

    def _copying_in(self) -> Callable[[int], tuple[Any]]:
        """Return what copies a batch at an address of the host's to the GPU; it is no part of
        the graph, in which the address could not change."""
        cudart = cuda.runtime()
        copy, kind = cudart.cudaMemcpyAsync, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        target, stream = self._device_input.handle, self._stream.handle
        size_bytes = self._pinned_input.size_bytes
        return lambda source: copy(target, source, size_bytes, kind, stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise self._file.failure()

    def wait_with(self, *, blocking: bool) -> None:
        """Choose how `collect` waits: asleep, or on a core of its own, which saves some 20 µs."""
        cudart, event = cuda.runtime(), self._events[blocking].handle
        self._record = partial(cudart.cudaEventRecord, event, self._stream.handle)
        self._wait = partial(cudart.cudaEventSynchronize, event)

    def launch(self, batch: Array, rows: NDArray[np.float32]) -> None:
        """Start on up to `size` inputs, whose features `collect` writes to `rows`.

        A short batch is filled up with its last input. A whole one that lies in pinned memory
        must not change until it is collected.
        """
        count = len(batch)
        if count == self.size and self._pinned.hold(batch):
            self._batch, source = batch, address_of(batch)
        else:
            source = self._pinned_input.handle
            self._copy(self._given[:count], batch)
            if count < self.size:
                self._given[count:] = batch[-1]
        (error,) = self._copy_in(source)
        if error:
            raise cuda.failure(error, "cudaMemcpyAsync")
        self._start()
        (error,) = self._record()
        if error:
            raise cuda.failure(error, "cudaEventRecord")
        self._rows = rows

    def collect(self) -> None:
        """Wait for the batch in flight, if any, and write its features to its rows."""
        rows = self._rows
        if rows is None:
            return
        (error,) = self._wait()
        if error:
            raise cuda.failure(error, "cudaEventSynchronize")
        rows[:] = self._made[: len(rows)]
        self._rows = self._batch = None

    def abandon(self) -> None:
        """Let go of the batch in flight, whatever becomes of it, so that another may follow."""
        self._rows = None
        with suppress(EngineError):  # that of the call that failed is the one to tell
            self._stream.synchronize()
        self._batch = None

    def launch_on_gpu(self, source: int, target: int, count: int) -> None:
        """Start on `count` inputs at an address on the GPU; the features go to another there.

        The rest of a short batch is what was there before.
        """
        given, made = self._device_input.handle, self._device_output.handle
        row_in, row_out = self.row_bytes
        cuda.copy_async(given, source, count * row_in, "DeviceToDevice", self._stream)
        self._execute()
        cuda.copy_async(target, made, count * row_out, "DeviceToDevice", self._stream)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Bytes of one item's inputs, and of its features."""
        return self._given.nbytes // self.size, self._made.nbytes // self.size

    def _free_context(self) -> None:
        self._context = None

    def close(self) -> None:
        """Free graph, context, buffers and stream, in this order; the lane is of no more use."""
        self.abandon()
        self._closing.close()


def drive(pieces: Iterable[tuple[Lane, Array, NDArray[np.float32]]]) -> None:
    """Run batches: a lane with inputs (n, …) and where their features (n, D) go, for each.

    A lane that comes again is waited for first, so that there are as many batches in flight as
    there are lanes.

    Raises:
        EngineError: A batch failed; none is in flight any more.
    """
    used: dict[Lane, None] = {}
    try:
        for lane, batch, rows in pieces:
            lane.collect()
            used[lane] = None
            lane.launch(batch, rows)
        for lane in used:
            lane.collect()
    except BaseException:
        for lane in used:
            lane.abandon()
        raise


def _launch(launch: Callable[..., Any], graph: Any, stream: cuda.Stream) -> None:
    (error,) = launch(graph, stream.handle)
    if error:
        raise cuda.failure(error, "cudaGraphLaunch")

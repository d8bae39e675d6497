"""Execution slots: each takes one batch to the GPU, computes it, and copies the features back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
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
from clipfleet.workers.engines.cuda.jpeg_decoder import BLANK, JpegDecoder
from clipfleet.workers.engines.cuda.pinned_memory import PinnedArrays, address_of
from clipfleet.workers.engines.cuda.resize import PictureBuffer, Pixels, Resizer
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile
from clipfleet.workers.images.decoder import Picture

log = logging.getLogger(__name__)


class ExecutionSlot:
    """An execution context for batches of one size, with its own stream, buffers and CUDA graph.

    A slot holds one batch at a time; several slots keep the GPU busy while the host copies.
    """

    def __init__(
        self, file: EngineFile, size: int, *, graph: bool, copy: HostCopy, pinned: PinnedArrays
    ) -> None:
        """Allocate stream, buffers and context, run once, and capture the run if `graph` is set.

        `copy` copies a batch into the slot's pinned memory, unless the batch lies in `pinned`.

        Raises:
            GpuMemoryError: The GPU has no room for the slot.
            EngineError: The engine does not run.
        """
        self.size = size
        self.uses_graph = False
        self._file = file
        self._copy = copy
        self._pinned = pinned
        self._batch: Array | None = None  # the batch in flight, if the GPU reads it in place
        self._rows: NDArray[np.float32] | None = None  # for the features of the batch in flight
        self._pictures: Sequence[Picture] = ()  # of the batch in flight
        self._pixels: Sequence[Pixels] = ()  # of these
        self._buffer: PictureBuffer | None = None
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
            self._enqueue()  # TensorRT's first run of a shape cannot be captured
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
        """Return a function that launches the graph, or `_enqueue` if nothing can be captured."""
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
        """Return a function that copies a batch at a host address to the GPU.

        The copy is not part of the graph, in which the address could not change.
        """
        cudart = cuda.runtime()
        copy, kind = cudart.cudaMemcpyAsync, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        target, stream = self._device_input.handle, self._stream.handle
        size_bytes = self._pinned_input.size_bytes
        return lambda source: copy(target, source, size_bytes, kind, stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise self._file.failure()

    def wait_with(self, *, blocking: bool) -> None:
        """Choose how `collect` waits: asleep, or on a busy core, which saves some 20 µs."""
        cudart, event = cuda.runtime(), self._events[blocking].handle
        self._record = partial(cudart.cudaEventRecord, event, self._stream.handle)
        self._wait = partial(cudart.cudaEventSynchronize, event)
        self._query = partial(cudart.cudaEventQuery, event)

    def launch(self, batch: Array, rows: NDArray[np.float32]) -> None:
        """Start a batch of up to `size` inputs; `collect` writes its features to `rows`.

        A short batch is padded with its last input. A full batch in pinned memory must not
        change until it is collected.
        """
        count = len(batch)
        if count == self.size and self._pinned.contains(batch):
            self._batch, source = batch, address_of(batch)
        else:
            source = self._pinned_input.handle
            self._copy(self._given[:count], batch)
            if count < self.size:
                self._given[count:] = batch[-1]
        (error,) = self._copy_in(source)
        if error:
            raise cuda.failure(error, "cudaMemcpyAsync")
        self._run()
        self._rows = rows

    def _run(self) -> None:
        self._start()
        (error,) = self._record()
        if error:
            raise cuda.failure(error, "cudaEventRecord")

    def launch_pictures(
        self,
        pictures: Sequence[Picture],
        rows: NDArray[np.float32],
        resizer: Resizer,
        jpegs: JpegDecoder | None = None,
    ) -> list[int]:
        """Start a batch of up to `size` pictures, which the GPU resizes; `collect` frees them.

        `jpegs` decodes those that are JPEG files. Return the positions of those that it does not
        decode; their rows get the features of another picture. The rest of a short batch keeps
        earlier inputs.
        """
        if self._buffer is None:
            self._buffer = PictureBuffer(resizer, self.size)
        pixels = jpegs.decode(pictures, self._stream) if jpegs else pictures
        self._pixels = pixels
        self._buffer.copy(pixels, self._device_input.handle, self._stream)
        self._run()
        self._pictures, self._rows = pictures, rows
        return [number for number, one in enumerate(pixels) if one is BLANK]

    def collect(self) -> None:
        """Wait for the batch in flight, if there is one, and write its features to its rows."""
        rows = self._rows
        if rows is None:
            return
        (error,) = self._wait()
        if error:
            raise cuda.failure(error, "cudaEventSynchronize")
        rows[:] = self._made[: len(rows)]
        for picture in self._pictures:
            picture.free()
        self._rows = self._batch = None
        self._pictures = self._pixels = ()

    @property
    def is_done(self) -> bool:
        """Whether `collect` has not to wait."""
        if self._rows is None:
            return True
        (error,) = self._query()
        if error and error.name != "cudaErrorNotReady":
            raise cuda.failure(error, "cudaEventQuery")
        return not error

    def abandon(self) -> None:
        """Drop the batch in flight, whether it fails or not."""
        self._rows = None
        with suppress(EngineError):  # the error of the call that failed is raised instead
            self._stream.synchronize()
        self._batch = None
        self._pictures = self._pixels = ()

    def launch_on_gpu(self, source: int, target: int, count: int) -> None:
        """Start a batch of `count` inputs at GPU address `source`; the features go to `target`.

        The rest of a short batch keeps earlier inputs.
        """
        given, made = self._device_input.handle, self._device_output.handle
        row_in, row_out = self.row_bytes
        cuda.copy_async(given, source, count * row_in, "DeviceToDevice", self._stream)
        self._execute()
        cuda.copy_async(target, made, count * row_out, "DeviceToDevice", self._stream)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """The size of one item's inputs and of its features, in bytes."""
        return self._given.nbytes // self.size, self._made.nbytes // self.size

    def _free_context(self) -> None:
        self._context = None

    def close(self) -> None:
        """Free graph, context, buffers and stream, in this order. Do not use the slot again."""
        self.abandon()
        if self._buffer is not None:
            self._buffer.close()
        self._closing.close()


def run_batches(pieces: Iterable[tuple[ExecutionSlot, Array, NDArray[np.float32]]]) -> None:
    """Run batches, each a slot, its inputs (n, …) and the rows for its features (n, D).

    Before a slot's next batch its last batch is collected, so there are as many batches in
    flight as slots.

    Raises:
        EngineError: A batch failed; no batch is in flight any more.
    """
    used: dict[ExecutionSlot, None] = {}
    try:
        for slot, batch, rows in pieces:
            slot.collect()
            used[slot] = None
            slot.launch(batch, rows)
        for slot in used:
            slot.collect()
    except BaseException:
        for slot in used:
            slot.abandon()
        raise


def _launch(launch: Callable[..., Any], graph: Any, stream: cuda.Stream) -> None:
    (error,) = launch(graph, stream.handle)
    if error:
        raise cuda.failure(error, "cudaGraphLaunch")

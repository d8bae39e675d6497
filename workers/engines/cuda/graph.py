"""CUDA graphs: GPU work that is captured once and then launched with one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipfleet.workers.engines.cuda.runtime import Handle, Stream, call, runtime


class Graph(Handle):
    """Captured GPU work that is launched as a whole."""

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Capture the work that `enqueue` puts into `stream`, without running it.

        Raises:
            EngineError: Some of the work cannot be captured.
        """
        graph = _captured(stream, enqueue)
        try:
            executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)
        super().__init__(executable, "cudaGraphExecDestroy")


def _captured(stream: Stream, enqueue: Callable[[], None]) -> Any:
    cudart = runtime()
    # Thread-local: CUDA calls of other threads neither fail nor break the capture.
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call("cudaStreamBeginCapture", stream.handle, mode)
    try:
        enqueue()
    except BaseException:
        error, graph = cudart.cudaStreamEndCapture(
            stream.handle
        )  # or the stream stays in capture mode
        if not error:
            cudart.cudaGraphDestroy(graph)
        raise
    return call("cudaStreamEndCapture", stream.handle)

"""CUDA graphs: GPU work that is captured once and then launched with one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipfleet.workers.engines.cuda.runtime import Held, Stream, call, runtime


class Graph(Held):
    """Work that was captured once, launched as a whole."""

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Capture what `enqueue` puts into `stream`; nothing of it runs yet.

        Raises:
            EngineError: It holds something that cannot be captured.
        """
        graph = _captured(stream, enqueue)
        try:
            executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)
        super().__init__(executable, "cudaGraphExecDestroy")


def _captured(stream: Stream, enqueue: Callable[[], None]) -> Any:
    cudart = runtime()
    # Thread-local: what other threads ask of CUDA meanwhile neither fails nor breaks the capture.
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    call("cudaStreamBeginCapture", stream.handle, mode)
    try:
        enqueue()
    except BaseException:
        error, graph = cudart.cudaStreamEndCapture(stream.handle)  # else the stream stays useless
        if not error:
            cudart.cudaGraphDestroy(graph)
        raise
    return call("cudaStreamEndCapture", stream.handle)

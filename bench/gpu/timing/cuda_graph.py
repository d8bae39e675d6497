"""Replay a PyTorch tower as one CUDA graph, the fastest way to run unchanged PyTorch code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from clipfleet.model_card import ModelCard
from clipfleet.workers.engines.base import Array, Engine, batches, checked_inputs

_WARMUP_CALLS = 3  # what torch asks for before a capture


class CudaGraphEngine(Engine):
    """A function of tensors, captured once with fixed buffers; copies go through pinned memory."""

    def __init__(
        self,
        module_call: Callable[[torch.Tensor], torch.Tensor],
        card: ModelCard,
        *,
        batch_size: int,
    ) -> None:
        self.card = card
        self.max_batch = batch_size
        shape = (batch_size, *(size or 1 for size in card.input.shape[1:]))
        dtype = torch.int64 if card.tower == "txt" else torch.float32
        self._host_input = torch.ones(shape, dtype=dtype).pin_memory()
        self._host_output = torch.empty((batch_size, card.dim)).pin_memory()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad():
            self._input = self._host_input.cuda()
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARMUP_CALLS):
                    module_call(self._input).float()
            torch.cuda.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._output = module_call(self._input).float()
        torch.cuda.synchronize()

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Return the features of n inputs, float32 (n, D)."""
        inputs = checked_inputs(inputs, self.card)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        start = 0
        for batch, count in batches(inputs, self.max_batch, padded=True):
            features[start : start + count] = self._run(batch)[:count]
            start += count
        return features

    @torch.no_grad()
    def _run(self, batch: Array) -> NDArray[np.float32]:
        self._host_input.copy_(torch.from_numpy(batch))
        with torch.cuda.stream(self._stream):
            self._input.copy_(self._host_input, non_blocking=True)
            self._graph.replay()
            self._host_output.copy_(self._output, non_blocking=True)
        self._stream.synchronize()
        result: NDArray[np.float32] = self._host_output.numpy()
        return result

    def close(self) -> None:
        """The module belongs to the caller; the graph goes with this object."""
        self._graph.reset()

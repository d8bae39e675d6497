"""TensorRT engines for workers: verified for this GPU, with several batches in flight."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import GpuMemoryError
from clipfleet.model_card import ModelCard
from clipfleet.workers.engines.base import Array, Engine, checked_inputs
from clipfleet.workers.engines.tensorrt.model import TensorRTModel
from clipfleet.workers.engines.tensorrt.open import open_engine
from clipfleet.workers.engines.tensorrt.runner import Runner

__all__ = ["TensorRTEngine", "TensorRTModel"]

log = logging.getLogger(__name__)

# Items that one call should have. At a call's end the batches in flight finish one after the
# other, which costs about half of them: a thirtieth of 16 rounds. The embedder holds three such
# chunks in memory, which are 460 MB at 256 pictures of 224 x 224.
_ROUNDS = 16
_MAX_ITEMS = 256


class TensorRTEngine(Engine):
    """A tower in TensorRT.

    `contexts` is the number of batches in flight; `uses_graphs` says whether CUDA graphs are used.
    """

    def __init__(
        self,
        card: ModelCard,
        engine_path: Path,
        *,
        contexts: int = 0,
        cuda_graphs: bool = True,
        allow_unverified: bool = False,
    ) -> None:
        """Load an engine, check it against its card, and allocate its memory on the GPU.

        `contexts` is how many batches are in flight at once; 0: measure and choose.

        Raises:
            DependencyError: TensorRT or cuda-bindings is not installed.
            EngineDamagedError: The file is not the card's, or TensorRT cannot read it.
            EngineVersionError: It was built by another TensorRT, or for another GPU.
            EngineUnverifiedError: Its card does not verify it here, and `allow_unverified` is
                not set.
            EngineMismatchError: Its names, shapes or dtypes are not its card's.
            GpuMemoryError, GpuLostError: The GPU has no room, or does not work.
        """
        self.card = card
        self._use_pinned = True
        with ExitStack() as stack:
            file = stack.enter_context(
                open_engine(card, engine_path, allow_unverified=allow_unverified)
            )
            self._runner = stack.enter_context(
                Runner(file, contexts=contexts, cuda_graphs=cuda_graphs)
            )
            self._resources: ExitStack | None = stack.pop_all()
        self.contexts = self._runner.contexts
        self.uses_graphs = self._runner.uses_graphs
        in_flight = self.contexts * file.sizes.largest
        self.max_batch = max(in_flight, min(_ROUNDS * in_flight, _MAX_ITEMS))

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Return the features of n inputs, float32 (n, D), in order.

        Raises:
            EngineError: The inputs do not fit the card, or TensorRT failed.
            GpuLostError: The GPU is lost; this process must end.
        """
        inputs = checked_inputs(inputs, self.card)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        self._runner.run(inputs, features)
        return features

    def empty_inputs(self, count: int) -> Array:
        """Return an array (count, …), in pinned memory if there is enough."""
        if self._use_pinned:
            try:
                return self._runner.empty_inputs(count)
            except GpuMemoryError as error:  # such as in WSL 2, with its low limit
                self._use_pinned = False
                log.warning(
                    "%s: too little memory can be locked for inputs, each is copied once more on "
                    "the host: %s",
                    self.card.engine,
                    error,
                )
        return super().empty_inputs(count)

    def close(self) -> None:
        """Free the engine's GPU memory; the engine cannot be called any more."""
        if self._resources is not None:
            resources, self._resources = self._resources, None
            resources.close()

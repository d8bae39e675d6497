"""TensorRT engines for workers: verified for this GPU, with several batches in flight."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from clipfleet.errors import EngineError, GpuLostError, GpuMemoryError
from clipfleet.model_card import ModelCard
from clipfleet.settings.engines import Decode
from clipfleet.workers.engines.base import Array, PictureEngine, Progress, checked_inputs
from clipfleet.workers.engines.cuda import runtime as cuda
from clipfleet.workers.engines.cuda.jpeg_decoder import JpegDecoder
from clipfleet.workers.engines.cuda.resize import resizes_exactly
from clipfleet.workers.engines.tensorrt.decode_proof import prove_decode
from clipfleet.workers.engines.tensorrt.model import TensorRTModel
from clipfleet.workers.engines.tensorrt.open import open_engine
from clipfleet.workers.engines.tensorrt.runner import Runner
from clipfleet.workers.images.decoder import Picture

__all__ = ["TensorRTEngine", "TensorRTModel"]

log = logging.getLogger(__name__)

# Items that one call should have. At a call's end the batches in flight finish one after the
# other, which costs about half of them: a thirtieth of 16 rounds. The embedder holds
# decoders' slots for three such chunks of pictures.
_ROUNDS = 16
_MAX_ITEMS = 256


class TensorRTEngine(PictureEngine):
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
        decode: Decode = "exact",
    ) -> None:
        """Load an engine, check it against its card, and allocate its memory on the GPU.

        `contexts` is how many batches are in flight at once; 0: measure and choose. With `decode`
        "gpu", the GPU decodes JPEG files, which is proved first.

        Raises:
            DependencyError: TensorRT, cuda-bindings or nvImageCodec is not installed.
            EngineDamagedError: The file is not the card's, or TensorRT cannot read it.
            EngineVersionError: It was built by another TensorRT, or for another GPU.
            EngineUnverifiedError: Its card does not verify it here, and `allow_unverified` is
                not set; or the GPU does not decode JPEG files as `prove_decode` demands.
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
            # After the runner, so that it is closed before the runner's streams.
            self._jpegs = stack.enter_context(JpegDecoder()) if decode == "gpu" else None
            # The kernels write float32.
            is_taken = card.tower == "img" and file.input.dtype == "float32"
            self.takes_pictures = is_taken and self._resizes_exactly()
            self.decodes_jpegs = self._jpegs is not None
            if self._jpegs is not None:
                with cuda.detect_lost_gpu():
                    prove_decode(self, self._jpegs)
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

    def run_stream(
        self,
        inputs: Iterable[Array],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> int:
        """Write the features of all inputs to the first rows of `features`, and return their count.

        Batches stay in flight while the next array of `inputs` is made.

        Raises:
            EngineError, GpuLostError: As in a call.
        """

        def pinned() -> Iterator[Array]:
            for given in inputs:
                rows = self.empty_inputs(len(given))
                rows[:] = checked_inputs(given, self.card)
                yield rows

        return self._runner.run_stream(pinned(), features, progress)

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

    def _resizes_exactly(self) -> bool:
        """Return whether the GPU's pixels are equal to Pillow's; otherwise, log why not."""
        try:
            with cuda.detect_lost_gpu():
                if resizes_exactly(self.card.input.shape[-1] or 0):
                    return True
            reason = f"the GPU's pixels differ from those of Pillow {PIL.__version__}"
        except GpuLostError:
            raise
        except EngineError as error:  # an old driver, or too little memory
            reason = str(error)
        log.warning("%s: the CPU resizes all pictures: %s", self.card.engine, reason)
        return False

    def pin(self, address: int, size_bytes: int) -> Callable[[], None]:
        """Let the GPU copy from memory of this process; return what ends this."""
        cudart = cuda.runtime()
        (error,) = cudart.cudaHostRegister(address, size_bytes, cudart.cudaHostRegisterDefault)
        if error:
            log.warning("%d bytes cannot be locked: %s", size_bytes, error.name)
            return lambda: None
        return partial(cudart.cudaHostUnregister, address)

    def run_pictures(
        self,
        pictures: Iterable[Picture],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> list[int]:
        """Write the features of n pictures to the first n rows of `features`.

        Return the positions of the JPEG files that the GPU does not decode: their rows are wrong.

        Raises:
            EngineError: TensorRT failed.
            GpuLostError: The GPU is lost; this process must end.
        """
        return self._runner.run_pictures(pictures, features, progress, self._jpegs)

    def memory_info(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU, in bytes."""
        return cuda.memory_info()

    def collect_pictures(self) -> None:
        """Free the pictures of the batches that are done."""
        self._runner.collect_done()

    def close(self) -> None:
        """Free the engine's GPU memory; the engine cannot be called any more."""
        if self._resources is not None:
            resources, self._resources = self._resources, None
            resources.close()

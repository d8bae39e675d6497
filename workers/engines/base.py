"""The engine protocol, and the steps around every engine: input checks, batches, L2 norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError
from clipfleet.model_card import ModelCard, TensorSpec
from clipfleet.workers.closing import Closing
from clipfleet.workers.images.decoder import Picture

Array = NDArray[Any]
Progress = Callable[[int], None]  # called with the number of items that got done, from any thread


def no_progress(_: int) -> None:
    """Tell nobody how many items got done."""


class Engine(Closing, Protocol):
    """A tower compiled for one runtime, ready to run; a context manager.

    Calling it with (n, …) inputs of the card's input spec, n ≥ 0 of any size, returns
    float32 (n, D) features, not yet normalised, in order.
    """

    card: ModelCard
    max_batch: int  # how many inputs a call should have for full speed

    def __call__(self, inputs: Array) -> NDArray[np.float32]: ...

    def run_stream(
        self,
        inputs: Iterable[Array],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> int:
        """Write the features of all inputs to the first rows of `features`, and return their count.

        Each array (k, …) of `inputs` is one call's; an engine may take the next one while it runs.
        `progress` is called after each array, or each call of several for one array.

        Raises:
            EngineError: As in a call.
        """
        count = 0
        for given in inputs:
            features[count : count + len(given)] = self(given)
            count += len(given)
            progress(len(given))
        return count

    def memory_info(self) -> tuple[int, int] | None:
        """Return the free and the total memory of the engine's GPU, in bytes; None if unknown."""
        return None

    def empty_inputs(self, count: int) -> Array:
        """Return an uninitialised array (count, …) in memory that the engine reads fastest.

        An engine takes inputs from any other array as well.
        """
        spec = self.card.input
        return np.empty((count, *(size or 1 for size in spec.shape[1:])), np.dtype(spec.dtype))


@runtime_checkable
class PictureEngine(Engine, Protocol):
    """An engine that can take decoded pictures in their own size, and resize them on its GPU."""

    takes_pictures: bool  # whether it does, with pixels equal to Pillow's
    decodes_jpegs: bool  # whether pictures may be JPEG files, which its GPU decodes

    def pin(self, address: int, size_bytes: int) -> Callable[[], None]:
        """Let the GPU copy from memory of this process; return what ends this."""
        ...

    def run_pictures(
        self,
        pictures: Iterable[Picture],
        features: NDArray[np.float32],
        progress: Progress,
    ) -> list[int]:
        """Write the features of n pictures to the first n rows of `features`.

        Each picture is freed, in order. `progress` is called after each batch. Return the positions
        of the JPEG files that the GPU does not decode: their rows are wrong.

        Raises:
            EngineError: The engine failed.
        """
        ...

    def collect_pictures(self) -> None:
        """Free the pictures of the batches that are done; called while a picture is waited for."""
        ...


def picture_engine(engine: Engine) -> PictureEngine | None:
    """Return an engine that takes pictures in their own size; None for every other one."""
    return engine if isinstance(engine, PictureEngine) and engine.takes_pictures else None


def checked_inputs(inputs: Array, card: ModelCard) -> Array:
    """Return inputs (n, …) in the dtype of the card's input: int64 ids may become int32.

    Raises:
        EngineError: The inputs have another shape, or a dtype of another kind.
    """
    check_inputs(inputs.shape, inputs.dtype, card.input, taker=f"{card.tower} engine {card.engine}")
    return np.ascontiguousarray(inputs, dtype=np.dtype(card.input.dtype))


def check_inputs(
    shape: Sequence[int], dtype: np.dtype[Any], spec: TensorSpec, *, taker: str
) -> None:
    """Check that inputs of a shape and dtype match a spec, or can be converted to its dtype.

    `taker` is the engine's name for the message.

    Raises:
        EngineError: The shape is another, or the dtype is of another kind.
    """
    fits = len(shape) == len(spec.shape) and all(
        size in (None, given) for size, given in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits or dtype.kind != np.dtype(spec.dtype).kind:
        raise EngineError(
            f"inputs are {dtype} {tuple(shape)}: the {taker} "
            f"takes {spec.dtype} (n, {', '.join(map(str, spec.shape[1:]))}) as {spec.name!r}"
        )


def batches(inputs: Array, size: int, *, padded: bool) -> Iterator[tuple[Array, int]]:
    """Yield batches of up to `size` inputs with their count; `padded` repeats the last input."""
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        count = len(batch)
        if padded and count < size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
        yield batch, count


def l2_normalise(features: NDArray[Any]) -> NDArray[np.float32]:
    """Return features (n, D) divided by their L2 norms, float32 (n, D).

    A row that has no direction (all zeros, or with a NaN or an infinity) becomes all NaN.
    """
    wide = features.astype(np.float64)  # squares of float32 can overflow float32
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    norms[(norms == 0) | ~np.isfinite(norms)] = np.nan
    vectors = np.empty(features.shape, np.float32)
    np.divide(wide, norms[:, None], out=vectors, casting="same_kind")
    return vectors

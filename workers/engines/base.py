"""The engine protocol: what every runtime's engine offers to the pipeline."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipfleet.model_card import ModelCard

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

Array = NDArray[Any]


class Engine(Protocol):
    """A tower compiled for one runtime, ready to run; a context manager.

    Calling it with (n, …) inputs of the card's input spec, n ≥ 0 of any size, returns
    float32 (n, D) features, not yet normalised, in order.
    """

    card: ModelCard
    max_batch: int  # items that it should be called with at once, to be fed well

    def __call__(self, inputs: Array) -> NDArray[np.float32]: ...

    def empty_inputs(self, count: int) -> Array:
        """Return an array (count, …) for inputs, where the engine takes them from best.

        Its content is any; an engine takes inputs from everywhere else as well.
        """
        spec = self.card.input
        return np.empty((count, *(size or 1 for size in spec.shape[1:])), np.dtype(spec.dtype))

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

"""Open a TensorRT engine once, and run it with several numbers of contexts in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipfleet.convert.benchmark.runtimes import Target, check_is
from clipfleet.model_card import ModelCard, load_card
from clipfleet.workers.engines.base import Array, Engine, checked_inputs
from clipfleet.workers.engines.tensorrt.engine_file import EngineFile
from clipfleet.workers.engines.tensorrt.open import open_engine
from clipfleet.workers.engines.tensorrt.runner import Runner


class ContextsEngine(Engine):
    """What workers' `TensorRTEngine` is, of a file that stays open when it is closed."""

    def __init__(self, card: ModelCard, file: EngineFile, contexts: int) -> None:
        self.card = card
        self._runner = Runner(file, contexts=contexts)
        self.contexts = self._runner.contexts
        self.uses_graphs = self._runner.uses_graphs
        self.max_batch = self.contexts * file.sizes.largest

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        inputs = checked_inputs(inputs, self.card)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        self._runner.run(inputs, features)
        return features

    def empty_inputs(self, count: int) -> Array:
        return self._runner.empty_inputs(count)

    def close(self) -> None:
        self._runner.close()


@contextmanager
def opened(target: Target, path: Path) -> Iterator[Callable[[int], ContextsEngine]]:
    """Read and check an engine; yield what opens it with so many contexts, 0: its own choice.

    One at a time. The files of an engine are hashed at every opening: that is up to 1.2 GB.

    Raises:
        CardError, EngineError: The engine or its card is missing or wrong, or nothing proves
            the engine on this GPU.
        UsageError: It is another model's, tower's or batch size's engine.
    """
    card, engine_path = load_card(path)
    check_is(card, target, path, runtime="tensorrt")
    with open_engine(card, engine_path, allow_unverified=False) as file:
        yield partial(ContextsEngine, card, file)

"""`TensorRTModel(path)(inputs={"image": array})`: the engine call of Chinese-CLIP's guide."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfleet.errors import EngineError
from clipfleet.model_card import card_path, load_card
from clipfleet.workers.closing import Closing
from clipfleet.workers.engines.base import check_inputs
from clipfleet.workers.engines.cuda.device_array import Features, gpu_array, wait_for
from clipfleet.workers.engines.tensorrt.open import open_engine
from clipfleet.workers.engines.tensorrt.runner import Runner


class TensorRTModel(Closing):
    """An engine file that is called with named inputs; a context manager.

    For a NumPy array it returns a NumPy array. An array in GPU memory, with
    `__cuda_array_interface__`, is not copied to the host first. For a torch tensor on the GPU it
    returns a torch tensor on the GPU. torch is not imported.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        contexts: int = 1,
        cuda_graphs: bool = True,
        allow_unverified: bool = False,
    ) -> None:
        """Load an engine; `allow_unverified` accepts an engine without a card or a verification.

        `contexts` is how many batches are in flight at once.

        Raises:
            DependencyError: TensorRT or cuda-bindings is not installed.
            CardError: The engine's card does not match the schema.
            EngineError: As for `TensorRTEngine`.
        """
        path = Path(path)
        card = load_card(path)[0] if card_path(path).is_file() else None
        with ExitStack() as stack:
            self._file = stack.enter_context(
                open_engine(card, path, allow_unverified=allow_unverified)
            )
            self._runner = stack.enter_context(
                Runner(self._file, contexts=contexts, cuda_graphs=cuda_graphs)
            )
            self._resources: ExitStack | None = stack.pop_all()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return {output name: features (n, D)} for {input name: inputs (n, …)}, n of any size.

        The features are float32 and not normalised. Inputs of another dtype of the same kind
        (integers, or floating point) are converted.

        Raises:
            EngineError: The name, shape or dtype is wrong, or the engine failed.
        """
        spec = self._file.input
        if set(inputs) != {spec.name}:
            raise EngineError(
                f"inputs are {', '.join(map(repr, inputs)) or '(none)'}: {self._file.path} takes "
                f"{spec.name!r}"
            )
        given = inputs[spec.name]
        if hasattr(given, "detach"):  # a torch tensor: with a gradient it gives no address
            given = given.detach()
        on_gpu = hasattr(given, "__cuda_array_interface__")
        run = self._run_on_gpu if on_gpu else self._run_on_host
        return {self._file.output.name: run(given)}

    def _run_on_host(self, given: Any) -> NDArray[np.float32]:
        spec, inputs = self._file.input, np.asarray(given)
        check_inputs(inputs.shape, inputs.dtype, spec, taker=f"engine {self._file.path.name}")
        features = np.empty((len(inputs), *self._file.output_row), dtype=np.float32)
        self._runner.run(np.ascontiguousarray(inputs, dtype=np.dtype(spec.dtype)), features)
        return features

    def _run_on_gpu(self, given: Any) -> Any:
        inputs = gpu_array(given, self._file.input, taker=f"engine {self._file.path.name}")
        with Features(inputs, self._file.output) as features:
            if inputs.count:
                wait_for(inputs)
            self._runner.run_on_gpu(inputs.address, features.address, inputs.count)
            return features.result()

    def close(self) -> None:
        """Free the model's GPU memory; the model cannot be called any more."""
        if self._resources is not None:
            resources, self._resources = self._resources, None
            resources.close()

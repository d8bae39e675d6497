"""The reference engine: a PyTorch module. Conversions are compared with it; no worker uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from clipfleet.errors import EngineMismatchError
from clipfleet.model_card import ModelCard
from clipfleet.workers.engines.base import Array, Engine, batches, checked_inputs


class TorchEngine(Engine):
    """An engine made of a function of tensors (n, …) → (n, D), such as a model's `encode_image`."""

    def __init__(
        self,
        module_call: Callable[[torch.Tensor], torch.Tensor],
        card: ModelCard,
        device: str | torch.device = "cpu",
        *,
        max_batch: int = 32,
    ) -> None:
        self.card = card
        self.max_batch = card.batch_size or max_batch
        self._call = module_call
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Return the features of n inputs, float32 (n, D).

        Raises:
            EngineError: The inputs do not match the card.
            EngineMismatchError: The function's result does not match the card.
        """
        inputs = checked_inputs(inputs, self.card)
        features = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        start = 0
        for batch, count in batches(inputs, self.max_batch, padded=False):
            output = self._call(torch.from_numpy(batch).to(self._device))
            if output.shape != (count, self.card.dim):
                raise EngineMismatchError(
                    f"the module's output is {tuple(output.shape)}: its card says "
                    f"({count}, {self.card.dim})"
                )
            features[start : start + count] = output.float().cpu().numpy()
            start += count
        return features

    def close(self) -> None:
        """Do nothing: the module belongs to the caller."""

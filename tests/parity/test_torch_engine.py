"""The PyTorch engine, with modules of PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipfleet.architectures import Tower
from clipfleet.errors import EngineMismatchError
from clipfleet.workers.engines.fake import fake_card
from clipfleet.workers.engines.torch import TorchEngine
from tests.unit.workers.conftest import engine_inputs, expected_features, weights


@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_pytorch_engine_calls_its_module_by_batches(tower: Tower, count: int) -> None:
    inputs = engine_inputs(tower, count)
    matrix = torch.from_numpy(weights(tower))
    sizes = []

    def module(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.mean(dim=(2, 3)) @ matrix if tower == "img" else matrix[batch].mean(dim=1)

    card = fake_card(tower, dim=6, resolution=8, context_length=10)
    with TorchEngine(module, card, "cpu", max_batch=3) as engine:
        features = engine(inputs)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(tower, inputs), atol=1e-5)
    assert sizes == {0: [], 1: [1], 7: [3, 3, 1]}[count]


def test_the_pytorch_engine_refuses_features_of_another_width() -> None:
    card = fake_card("txt", dim=6, context_length=10)
    with pytest.raises(EngineMismatchError, match=r"output is \(2, 10\): its card says \(2, 6\)"):
        TorchEngine(lambda ids: ids.float(), card)(engine_inputs("txt", 2))

"""The fake and the PyTorch engine, and which engine a card asks for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipfleet.card import card_path, load_card, write_card
from clipfleet.errors import CardError, EngineError, EngineMismatchError, GpuLostError
from clipfleet.models import Tower
from clipfleet.settings import Settings
from tests.unit.workers.conftest import Made, engine_inputs, expected_features, weights
from workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from workers.engines.loading import load_engine
from workers.engines.onnx import OnnxEngine
from workers.engines.torch import TorchEngine


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_fake_features_are_the_same_for_equal_inputs_only(tower: Tower) -> None:
    inputs = np.concatenate([engine_inputs(tower, 20)] * 2)
    engine = FakeEngine(fake_card(tower, dim=48, resolution=8, context_length=10))
    features = engine(inputs)
    assert features.dtype == np.float32
    assert features.shape == (40, 48)
    np.testing.assert_array_equal(features[:20], features[20:])
    assert len(np.unique(features, axis=0)) == 20
    np.testing.assert_array_equal(engine(inputs[3:4])[0], features[3])


def test_a_fake_engine_refuses_what_a_real_one_would() -> None:
    with pytest.raises(EngineError, match=r"takes int64 \(n, 52\) as 'text'"):
        FakeEngine(fake_card("txt"))(np.zeros((1, 51), np.int64))


def test_a_fake_engine_comes_from_its_file(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, "txt", dim=5)
    card, engine_path = load_card(path)
    assert (card.runtime, card.dim, card.tower) == ("fake", 5, "txt")
    assert engine_path.read_text() == '{"item_s": 0.0}'
    with load_engine(path, Settings()) as engine:
        assert isinstance(engine, FakeEngine)
        assert engine(np.ones((2, 52), np.int64)).shape == (2, 5)


def test_a_fake_engine_loses_its_gpu_when_told(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, "txt", lost_after_items=3)
    with load_engine(path, Settings()) as engine:
        assert len(engine(np.zeros((3, 52), np.int64))) == 3
        with pytest.raises(GpuLostError, match="fallen off the bus"):
            engine(np.zeros((1, 52), np.int64))
    with pytest.raises(GpuLostError):
        load_engine(write_fake_engine(tmp_path, "txt", lost_after_items=0), Settings())


def test_a_fake_engine_with_another_file_is_refused(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, "img")
    (tmp_path / "fake.img").write_text("{}")
    with pytest.raises(EngineError, match="has SHA-256"):
        load_engine(path, Settings())


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


def test_a_card_or_its_engine_loads_the_onnx_engine(make_engine: Callable[..., Made]) -> None:
    card, path = make_engine("img")
    for named in (path, card_path(path)):
        with load_engine(named, Settings(max_batch=5)) as engine:
            assert isinstance(engine, OnnxEngine)
            assert engine.card == card
            assert engine.max_batch == 5


def test_an_engine_that_no_worker_runs_is_refused(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, "img")
    card, _ = load_card(path)
    write_card(replace(card, runtime="torch"), path)
    with pytest.raises(EngineError, match=r"no worker runs torch engines .*convert the model to"):
        load_engine(path, Settings())


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no model card at .*/nothing\.onnx"):
        load_engine(tmp_path / "nothing.onnx", Settings())


def test_loading_and_running_an_engine_imports_no_torch(make_engine: Callable[..., Made]) -> None:
    _, path = make_engine("txt")
    code = f"""
import sys
from clipfleet.jobs import Item
from clipfleet.settings import Settings
from workers.pipeline import Embedder
with Embedder.from_settings(Settings(model={str(path)!r})) as embedder:
    assert len(embedder.embed([Item(id="a", text="猫")]).items) == 1
assert "onnxruntime" in sys.modules
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The fake engine, and which engine a card asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipfleet.architectures import Tower
from clipfleet.errors import CardError, EngineError, GpuLostError
from clipfleet.model_card import card_path, load_card, write_card
from clipfleet.settings import Settings
from clipfleet.workers.engines import tensorrt
from clipfleet.workers.engines.fake import FakeEngine, fake_card, write_fake_engine
from clipfleet.workers.engines.load import load_engine
from clipfleet.workers.engines.onnx import OnnxEngine
from clipfleet.workers.engines.tensorrt.model import TensorRTModel
from tests.unit.workers.conftest import Made, engine_inputs


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


def test_a_fake_engine_refuses_inputs_like_a_real_one() -> None:
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


def test_a_fake_engine_loses_its_gpu_after_a_number_of_items(tmp_path: Path) -> None:
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


def test_the_guides_model_is_imported_from_the_package_of_tensorrt_engines() -> None:
    assert tensorrt.TensorRTModel is TensorRTModel
    with pytest.raises(AttributeError, match="has no attribute 'TensorRTModels'"):
        _ = tensorrt.TensorRTModels


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no model card at .*/nothing\.onnx"):
        load_engine(tmp_path / "nothing.onnx", Settings())

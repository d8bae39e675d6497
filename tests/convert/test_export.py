import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from clipfleet.architectures import Architecture, Tower
from clipfleet.convert.export.tower import TowerGraph, export_tower, fold_batch_norms, tower_specs
from clipfleet.convert.model.chinese_clip import ChineseClip, halve
from clipfleet.errors import ConversionError
from clipfleet.model_card import ModelCard, load_card
from clipfleet.workers.engines.onnx import OnnxEngine

Build = Callable[[Architecture], ChineseClip]
Converted = dict[str, tuple[ModelCard, Path]]


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    features: np.ndarray = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return features


def random_inputs(architecture: Architecture, tower: Tower, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    side = architecture.resolution
    if tower == "img":
        return torch.randn(count, 3, side, side, generator=generator)
    ids = torch.randint(1, architecture.text.vocabulary_size, (count, 52), generator=generator)
    ids[0, 9:] = 0
    return ids


def test_a_converted_engine_of_any_batch_size_computes_what_pytorch_computes(
    dynamic_onnx: Path, vit: Architecture, build: Build
) -> None:
    model = build(vit)
    for value in model.state_dict().values():
        value.copy_(value.half())  # as its checkpoint has it
    inputs = random_inputs(vit, "img", 5)
    with torch.inference_mode():
        expected = TowerGraph(model, "img")(inputs).numpy()
    features = run(dynamic_onnx, inputs.numpy())
    assert np.allclose(features, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "tower"), [("resnet", "img"), ("vit", "txt")])
def test_an_engine_of_any_batch_size_computes_what_pytorch_computes(
    tmp_path: Path, request: pytest.FixtureRequest, build: Build, name: str, tower: Tower
) -> None:
    """Every conversion compares an engine of a fixed batch size with PyTorch."""
    architecture: Architecture = request.getfixturevalue(name)
    model = build(architecture)
    inputs = random_inputs(architecture, tower, 5)
    with torch.inference_mode():
        expected = TowerGraph(model, tower)(inputs).numpy()
    fold_batch_norms(model)
    source, target = tower_specs(architecture, tower, batch_size=None, context_length=52)
    path = tmp_path / "engine.onnx"
    export_tower(model, tower, path, source=source, target=target)
    features = run(path, inputs.numpy())
    assert np.allclose(features, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_an_engine_has_the_originals_names_and_the_opset_of_tensorrt_8(
    converted: Converted, tower: Tower, precision: str
) -> None:
    card, path = converted[f"{tower}.{precision}"]
    engine = path.parent / card.engine
    onnx.checker.check_model(str(engine), full_check=True)
    model = onnx.load(engine, load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    name = {"img": "image", "txt": "text"}[tower]
    types = onnx.TensorProto
    found = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*model.graph.input, *model.graph.output)
    ]
    expected_input = [1, 3, 32, 32] if tower == "img" else [1, 52]
    assert found == [
        (name, types.FLOAT if tower == "img" else types.INT64, expected_input),
        (f"unnorm_{name}_features", types.FLOAT, [1, 16]),
    ]


def test_an_engine_names_no_folder_of_the_machine_that_made_it(converted: Converted) -> None:
    for card, path in converted.values():
        data = (path.parent / card.engine).read_bytes()
        assert os.fsencode(Path(__file__).parents[2]) not in data
        assert b"site-packages" not in data


def test_the_weights_of_float16_take_half_the_room(converted: Converted) -> None:
    for tower in ("img", "txt"):
        sizes = {}
        for precision in ("fp32", "fp16"):
            card, path = converted[f"{tower}.{precision}"]
            assert card.extra_file == f"{card.engine}.extra_file"
            sizes[precision] = (path.parent / card.extra_file).stat().st_size
            assert (path.parent / card.engine).stat().st_size < 50_000
        assert sizes["fp16"] < 0.55 * sizes["fp32"]


def test_a_pair_can_be_moved_to_another_folder(converted: Converted, tmp_path: Path) -> None:
    card, path = converted["txt.fp16"]
    inputs = np.ones((1, 52), dtype=np.int64)
    expected = run(path.parent / card.engine, inputs)
    assert card.extra_file is not None
    for name in (card.engine, card.extra_file, path.name):
        shutil.copy(path.parent / name, tmp_path / name)
    assert np.array_equal(run(tmp_path / card.engine, inputs), expected)
    moved, engine_path = load_card(tmp_path / card.engine)
    with OnnxEngine(moved, engine_path, provider="cpu") as engine:
        assert np.array_equal(engine(inputs), expected)


def test_batch_norms_are_folded_without_a_change(resnet: Architecture, build: Build) -> None:
    model = build(resnet)
    pixels = random_inputs(resnet, "img", 2)
    with torch.inference_mode():
        expected = model.encode_image(pixels)
    fold_batch_norms(model)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.inference_mode():
        features = model.encode_image(pixels)
    assert torch.allclose(features, expected, atol=1e-5 * float(expected.abs().max()))


def test_an_operator_of_a_later_opset_is_refused(
    tmp_path: Path, vit: Architecture, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def splitting(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.chunk(3, dim=-1)  # Split changed in opset 18

    monkeypatch.setattr("clipfleet.convert.model.vision.thirds", splitting)
    source, target = tower_specs(vit, "img", batch_size=1, context_length=52)
    with pytest.raises(ConversionError, match=r"Split of opset 18: TensorRT 8\.6 knows 17"):
        export_tower(build(vit), "img", tmp_path / "e.onnx", source=source, target=target)
    assert os.listdir(tmp_path) == []


def test_a_halved_model_keeps_its_norms_and_its_scale(
    architecture: Architecture, build: Build
) -> None:
    model = halve(build(architecture))
    assert model.dtype == torch.float16
    for key, value in model.named_parameters():
        parent = model.get_submodule(key.rpartition(".")[0])
        norm = isinstance(parent, torch.nn.LayerNorm | torch.nn.BatchNorm2d)
        assert (value.dtype == torch.float32) == (norm or key == "logit_scale"), key

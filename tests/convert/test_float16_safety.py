"""Float16 engines where float16 is honest: NumPy's, operator by operator.

ONNX Runtime's CPU provider computes float16 in float32, so there an overflow never shows.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from clipfleet.architectures import Architecture, Tower
from clipfleet.convert.export.float16 import convert_to_float16
from clipfleet.convert.export.reference import TORCH_REFERENCE, reference_features
from clipfleet.convert.export.tower import TowerGraph, export_tower, fold_batch_norms, tower_specs
from clipfleet.convert.model.chinese_clip import ChineseClip, halve
from clipfleet.convert.model.layers import LayerNorm
from clipfleet.convert.parity import THRESHOLDS, measure_parity
from clipfleet.model_card import ModelCard, Parity

Converted = dict[str, tuple[ModelCard, Path]]

ENGINE = "engine.onnx"
CHANNELS = [3, 7]  # where real models keep activations of hundreds
LARGE = torch.tensor([400.0, -400.0])


@pytest.fixture
def wide(vit: Architecture) -> Architecture:
    """Wide enough that two rounded channels do not move the mean of all."""
    assert vit.vision.kind == "vit"
    return replace(
        vit,
        vision=replace(vit.vision, width=256, head_width=64),
        text=replace(vit.text, width=256, intermediate_width=512),
    )


def with_large_activations(model: ChineseClip) -> ChineseClip:
    """Put ±400 into two channels of both towers; the layers after them hardly look at these."""
    gain = 80.0  # the norms after the large channels must restore it

    def restore(norm: Any) -> None:
        norm.weight.mul_(gain)
        norm.weight[CHANNELS] = 0.01

    with torch.no_grad():
        first, second = model.get_submodule("visual.transformer.resblocks").children()
        first.get_parameter("attn.out_proj.bias")[CHANNELS] = LARGE
        for norm in (first.ln_2, second.ln_1, second.ln_2, model.get_submodule("visual.ln_post")):
            restore(norm)
        model.bert.embeddings.LayerNorm.bias[CHANNELS] = LARGE
        for name, module in model.bert.encoder.named_modules():
            if isinstance(module, LayerNorm):
                restore(module)
                module.bias[CHANNELS] = LARGE
            elif isinstance(module, torch.nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5)
                if not name.endswith("output.dense"):
                    module.weight[:, CHANNELS] *= 0.001
        model.text_projection[CHANNELS] = 0
    return model


def inputs_of(architecture: Architecture, tower: Tower) -> Any:
    """Four items; of the texts one is all padding but for its first token, one mostly."""
    generator = torch.Generator().manual_seed(5)
    side = architecture.resolution
    if tower == "img":
        return torch.randn(4, 3, side, side, generator=generator).numpy()
    ids = torch.randint(1, architecture.text.vocabulary_size, (4, 52), generator=generator)
    ids[0, 1:] = 0
    ids[1, 7:] = 0
    return ids.numpy()


def emulated(
    model: ChineseClip, tower: Tower, folder: Path, inputs: Any
) -> tuple[dict[str, Any], Any]:
    """Return every value that a float16 engine computes, and its features."""
    source, target = tower_specs(model.architecture, tower, batch_size=None, context_length=52)
    path = folder / ENGINE
    export_tower(model, tower, path, source=source, target=target)
    with np.errstate(all="ignore"):
        values: Any = ReferenceEvaluator(str(path)).run(
            None, {source.name: inputs}, intermediate=True
        )
    return values, values[target.name]


def parity_of(model: ChineseClip, tower: Tower, folder: Path) -> tuple[Parity, dict[str, Any]]:
    inputs = inputs_of(model.architecture, tower)
    reference = reference_features(model, tower, inputs)
    fold_batch_norms(model)
    values, features = emulated(halve(model), tower, folder, inputs)
    return measure_parity(
        features, reference, threshold=THRESHOLDS["fp16"], reference_name=TORCH_REFERENCE
    ), values


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_large_activations_survive_honest_float16(
    tmp_path: Path, wide: Architecture, build: Callable[[Architecture], ChineseClip], tower: Tower
) -> None:
    parity, values = parity_of(with_large_activations(build(wide)), tower, tmp_path)
    assert parity.passed, parity
    assert parity.cosine_between_items is not None
    assert parity.cosine_between_items < 0.99, "the items must differ for a cosine to say anything"
    halves = [v for v in values.values() if v is not None and v.dtype == np.float16 and v.size]
    assert max(np.abs(half).max() for half in halves) >= 400
    assert len(halves) > 50


def test_a_float16_layer_norm_would_not_survive_them(
    tmp_path: Path,
    wide: Architecture,
    build: Callable[[Architecture], ChineseClip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both towers have the same class of norms."""

    def naive(norm: LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        normal = centred / torch.sqrt(variance + norm.eps)
        return normal * norm.weight.to(x.dtype) + norm.bias.to(x.dtype)

    model = with_large_activations(build(wide))
    inputs = inputs_of(wide, "img")
    reference = reference_features(model, "img", inputs)
    monkeypatch.setattr(LayerNorm, "forward", naive)
    monkeypatch.setattr(
        "clipfleet.convert.export.tower._lower_opset", lambda graph: None
    )  # ReduceMean of 18
    _, features = emulated(halve(model), "img", tmp_path, inputs)
    parity = measure_parity(
        features, reference, threshold=THRESHOLDS["fp16"], reference_name=TORCH_REFERENCE
    )
    assert not parity.passed


@pytest.mark.parametrize("exporter", ["ours", "the guide's"])
@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.filterwarnings("ignore")  # the guide's exporter's own
def test_large_activations_survive_the_conversion_of_a_float32_file(
    tmp_path: Path,
    wide: Architecture,
    build: Callable[[Architecture], ChineseClip],
    tower: Tower,
    exporter: str,
) -> None:
    """The guide's exporter, in opset 13, makes several operators of a layer norm."""
    model = with_large_activations(build(wide))
    inputs = inputs_of(wide, tower)[:1]
    reference = reference_features(model, tower, inputs)
    source, target = tower_specs(wide, tower, batch_size=1, context_length=52)
    path, half = tmp_path / "m.fp32.onnx", tmp_path / "m.fp16.onnx"
    if exporter == "ours":
        export_tower(model, tower, path, source=source, target=target)
    else:
        torch.onnx.export(
            TowerGraph(model, tower).eval(),
            (torch.from_numpy(inputs),),
            path,
            input_names=[source.name],
            output_names=[target.name],
            opset_version=13,
            dynamo=False,
        )
    convert_to_float16(path, half)
    with np.errstate(all="ignore"):
        values: Any = ReferenceEvaluator(str(half)).run(
            None, {source.name: inputs}, intermediate=True
        )
    parity = measure_parity(
        values[target.name],
        reference,
        threshold=THRESHOLDS["fp16"],
        reference_name=TORCH_REFERENCE,
    )
    assert parity.passed, parity
    halves = [v for v in values.values() if v is not None and v.dtype == np.float16 and v.size]
    assert max(np.abs(value).max() for value in halves) >= 400


def test_a_resnet_keeps_its_precision_and_its_norms_are_float32(
    tmp_path: Path, resnet: Architecture, build: Callable[[Architecture], ChineseClip]
) -> None:
    parity, _ = parity_of(build(resnet), "img", tmp_path)
    assert parity.passed, parity
    assert parity.cosine_between_items is not None
    assert parity.cosine_between_items < 0.999
    assert_delicate_operators_are_float32(tmp_path / ENGINE, "img")


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_norms_and_masked_softmax_are_float32_in_a_float16_engine(
    converted: Converted, tower: Tower
) -> None:
    card, path = converted[f"{tower}.fp16"]
    assert_delicate_operators_are_float32(path.parent / card.engine, tower)


def assert_delicate_operators_are_float32(path: Path, tower: Tower) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    types |= {v.name: v.data_type for v in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    operators = ("Softmax", "LayerNormalization") if tower == "txt" else ("LayerNormalization",)
    delicate = [node for node in graph.node if node.op_type in operators]
    present = {node.op_type for node in graph.node}
    assert "Softmax" in present
    assert {node.op_type for node in delicate} == present & set(operators)
    for node in delicate:
        assert {types[name] for name in node.input} == {onnx.TensorProto.FLOAT}, node.name
        if tower == "txt" and node.op_type == "Softmax":
            masked = makers[node.input[0]]
            assert masked.op_type == "Add"
            assert {types[name] for name in masked.input} == {onnx.TensorProto.FLOAT}
    epsilons = {
        attribute.f
        for node in delicate
        for attribute in node.attribute
        if attribute.name == "epsilon"
    }
    if tower == "txt":
        assert epsilons == {np.float32(1e-12)}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert {types[node.input[0]] for node in products} == {onnx.TensorProto.FLOAT16}

"""Engines made of a float32 ONNX file instead of a checkpoint."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from clipfleet.architectures import load_architecture
from clipfleet.convert.checkpoints.load import build_model, load_checkpoint
from clipfleet.convert.export.tower import TowerGraph
from clipfleet.convert.from_onnx import convert_onnx
from clipfleet.convert.parity import verify_inputs
from clipfleet.errors import ConversionError, EngineDamagedError, UsageError, VerificationError
from clipfleet.model_card import ModelCard, card_path, load_card
from clipfleet.workers.engines.onnx import OnnxEngine

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "model"
LOGIT_SCALE = 3.84


def convert_demo(onnx: Path, prefix: Path, **options: Any) -> list[tuple[ModelCard, Path]]:
    return convert_onnx(onnx, architecture="demo", save_prefix=prefix, **options)


def copied(tower: str, folder: Path) -> Path:
    """The demo's float32 file in a folder, without its card."""
    for suffix in ("", ".extra_file"):
        shutil.copy(DEMO / f"demo.{tower}.fp32.onnx{suffix}", folder)
    return folder / f"demo.{tower}.fp32.onnx"


def tensor_types(path: Path) -> dict[str, int]:
    """Every typed value of an ONNX file by name, after ONNX's own strict type inference."""
    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        v.name: v.data_type for v in inferred.initializer
    }


def features_of(path: Path, tower: str) -> Any:
    card, engine_path = load_card(path)
    inputs = verify_inputs(card.tower, card.resolution if tower == "img" else card.context_length)
    with OnnxEngine(card, engine_path, provider="cpu") as engine:
        return engine(inputs)


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_file_with_a_card_gives_both_engines_of_the_same_model(
    tmp_path: Path, tower: str
) -> None:
    source, path = load_card(DEMO / f"demo.{tower}.fp32.onnx")
    (fp32, fp32_path), (fp16, fp16_path) = convert_demo(path, tmp_path / "new" / "m")
    assert fp32.identity == source.identity
    assert fp32.parity == source.parity
    assert fp16.checkpoint_sha256 == source.checkpoint_sha256
    assert fp16.logit_scale == source.logit_scale
    assert (fp16.precision, fp16.engine) == ("fp16", f"m.{tower}.fp16.onnx")
    assert fp16.parity is not None
    assert fp16.parity.passed
    assert fp16.parity.reference.endswith(f"float32, demo.{tower}.fp32.onnx on the CPU")
    assert fp16.parity.items == (8 if tower == "img" else 32)
    assert load_card(fp16_path)[0] == fp16
    assert load_card(fp32_path)[0] == fp32
    assert np.array_equal(features_of(fp32_path, tower), features_of(path, tower))
    half, single = (tmp_path / "new" / f"{card.extra_file}" for card in (fp16, fp32))
    assert half.stat().st_size < 0.6 * single.stat().st_size


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_products_are_float16_and_norms_float32(tmp_path: Path, tower: str) -> None:
    ((card, path),) = convert_demo(
        DEMO / f"demo.{tower}.fp32.onnx", tmp_path / "m", precisions=("fp16",)
    )
    engine = path.parent / card.engine
    assert sorted(os.listdir(tmp_path)) == sorted([card.engine, path.name, f"{card.extra_file}"])
    types = tensor_types(engine)
    nodes = onnx.load(engine, load_external_data=False).graph.node
    products = [node for node in nodes if node.op_type in ("MatMul", "Gemm", "Conv")]
    norms = [node for node in nodes if node.op_type == "LayerNormalization"]
    assert {types[name] for node in products for name in node.input} == {onnx.TensorProto.FLOAT16}
    assert {types[name] for node in norms for name in node.input} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_file_without_a_card_gets_one(tmp_path: Path, tower: str) -> None:
    onnx_path = copied(tower, tmp_path)
    before = sorted(os.listdir(tmp_path))
    (fp32, _), (fp16, _) = convert_demo(onnx_path, tmp_path / "out" / "m", logit_scale=LOGIT_SCALE)
    source, _ = load_card(DEMO / onnx_path.name)
    for card in (fp32, fp16):
        assert (card.architecture, card.tower) == ("demo", tower)
        assert (card.input, card.output) == (source.input, source.output)
        assert card.logit_scale == LOGIT_SCALE
        assert card.checkpoint_sha256 == fp32.extra_file_sha256
        assert card.parity is not None
        assert card.parity.reference.endswith(f"{onnx_path.name} on the CPU")
    assert sorted(os.listdir(tmp_path)) == [*before, "out"], "the file is only read"


@pytest.mark.parametrize("tower", ["img", "txt"])
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_the_guides_own_export_is_converted(tmp_path: Path, tower: str) -> None:
    """TorchScript, opset 13: the weights in the file, layer norms in several operators."""
    architecture = load_architecture("demo")
    model = build_model(load_checkpoint(DEMO / "demo.pt", architecture), architecture)
    name = "image" if tower == "img" else "text"
    size = architecture.resolution
    example = torch.ones(1, 3, size, size) if tower == "img" else torch.ones(1, 52).long()
    graph = TowerGraph(model, "img" if tower == "img" else "txt").eval()
    torch.onnx.export(
        graph,
        (example,),
        tmp_path / "guide.onnx",
        input_names=[name],
        output_names=[f"unnorm_{name}_features"],
        opset_version=13,
        dynamo=False,
    )
    (_, fp32_path), (fp16, fp16_path) = convert_demo(
        tmp_path / "guide.onnx", tmp_path / "m", logit_scale=LOGIT_SCALE
    )
    assert fp16.parity is not None
    assert fp16.parity.cosine_min > 0.999999
    assert np.allclose(
        features_of(fp32_path, tower),
        features_of(DEMO / f"demo.{tower}.fp32.onnx", tower),
        atol=1e-4,
    )
    engine = fp16_path.parent / fp16.engine
    types = tensor_types(engine)
    nodes = onnx.load(engine, load_external_data=False).graph.node
    makers = {output: node for node in nodes for output in node.output}
    roots = [node for node in nodes if node.op_type == "Sqrt"]
    assert len(roots) > 5
    for node in roots:
        value = node.input[0]  # a variance: the mean of squares, and an epsilon
        while makers[value].op_type != "Pow":
            assert types[value] == onnx.TensorProto.FLOAT
            assert makers[value].op_type in ("Add", "ReduceMean", "Cast")
            value = makers[value].input[0]


def test_a_float16_engine_that_strays_leaves_the_float32_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfleet.convert.parity.THRESHOLDS", {"fp32": 0.999999, "fp16": 1.1})
    with pytest.raises(VerificationError) as raised:
        convert_demo(DEMO / "demo.img.fp32.onnx", tmp_path / "m")
    assert "m.img.fp16.onnx strays from onnxruntime" in str(raised.value)
    assert f"Kept: {tmp_path / 'm.img.fp32.onnx'}." in str(raised.value)
    assert "--precision fp32" in str(raised.value)
    card, _ = load_card(tmp_path / "m.img.fp32.onnx")
    assert card.parity is not None
    assert len(os.listdir(tmp_path)) == 3


def test_a_file_that_is_no_float32_tower_of_the_architecture_is_refused(tmp_path: Path) -> None:
    bare = copied("img", tmp_path)
    (tmp_path / "garbage.onnx").write_bytes(b"no protocol buffer")
    (tmp_path / "empty.onnx").write_bytes(b"")
    half = tmp_path / "half.onnx"
    model = onnx.load(DEMO / "demo.img.fp16.onnx")
    onnx.save_model(model, half)
    cases: list[tuple[Path, str, dict[str, Any], type[Exception], str]] = [
        (bare, "demo", {}, UsageError, r"give --logit-scale"),
        (bare, "ViT-B-16", {"logit_scale": 4.6}, UsageError, r"\(1, 3, 96, 96\).*expected.*224"),
        (tmp_path / "none.onnx", "demo", {}, UsageError, "no ONNX file at"),
        (tmp_path / "garbage.onnx", "demo", {}, ConversionError, "cannot be read as an ONNX"),
        (tmp_path / "empty.onnx", "demo", {"logit_scale": 1.0}, UsageError, r"has the inputs \[\]"),
        (half, "demo", {"logit_scale": 1.0}, UsageError, "has float16 weights"),
        (DEMO / "demo.img.fp16.onnx", "demo", {}, UsageError, "float32 ONNX is expected"),
        (DEMO / "demo.img.fp32.onnx", "RN50", {}, UsageError, "is of demo, not of RN50"),
        (DEMO / "demo.img.fp32.onnx", "demo", {"logit_scale": 1.0}, UsageError, "card of .* says"),
    ]
    for path, name, options, error, message in cases:
        with pytest.raises(error, match=message):
            convert_onnx(path, architecture=name, save_prefix=tmp_path / "out" / "m", **options)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_its_cards_is_refused(tmp_path: Path) -> None:
    onnx_path = copied("img", tmp_path)
    card, _ = load_card(DEMO / onnx_path.name)
    card_path(onnx_path).write_text(replace(card, engine_sha256="0" * 64).to_json())
    with pytest.raises(EngineDamagedError):
        convert_demo(onnx_path, tmp_path / "out" / "m")

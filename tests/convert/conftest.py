"""Small models of both kinds, their checkpoints, and one conversion that several tests read."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx_ir
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from clipfleet.architectures import (
    Architecture,
    ModifiedResNet,
    PublishedCheckpoint,
    TextTransformer,
    Tower,
    VisionTransformer,
)
from clipfleet.convert.checkpoints.load import save_checkpoint
from clipfleet.convert.conversion import convert
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.convert.model.layers import LayerNorm
from clipfleet.convert.prepare import prepare
from clipfleet.convert.staging import EXTRA_FILE_SUFFIX
from clipfleet.model_card import ModelCard, TensorSpec
from tests.hub import Hub, resolve_path, serve

Converted = dict[str, tuple[ModelCard, Path]]

TEXT = TextTransformer(
    vocabulary_size=21128, layers=2, width=32, heads=4, intermediate_width=64, max_positions=64
)
VIT = Architecture(
    name="small-vit",
    dim=16,
    resolution=32,
    vision=VisionTransformer(kind="vit", layers=2, width=32, head_width=16, patch_size=8),
    text=TEXT,
)
RESNET = Architecture(
    name="small-resnet",
    dim=16,
    resolution=64,
    vision=ModifiedResNet(kind="resnet", layers=(1, 2, 1, 1), width=8, heads=4),
    text=replace(TEXT, layers=1),
)


def randomised(model: ChineseClip, seed: int = 0) -> ChineseClip:
    """Give every parameter and statistic a random value, so that none can be mistaken for another.

    Norms start as identities and biases at zero, and a ResNet's `bn3` even switches its
    blocks off: with initial values most mistakes would not show.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(value: torch.Tensor, low: float, high: float) -> None:
        value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LayerNorm | nn.BatchNorm2d):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.2, 0.2)
            elif isinstance(module, nn.Linear) and module.bias is not None:
                uniform(module.bias, -0.2, 0.2)
            elif isinstance(module, nn.Conv2d):
                module.weight.mul_(6**0.5)  # else the picture fades in a deep network
            elif isinstance(module, nn.Embedding):
                uniform(module.weight, -1, 1)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """Have torch read its table of operators once: of a small model's export that is a third."""
    with pytest.MonkeyPatch.context() as patch:
        once = staticmethod(cache(ONNXRegistry.from_torchlib))  # exports only look into it
        patch.setattr(ONNXRegistry, "from_torchlib", once)
        yield


@pytest.fixture(scope="session")
def vit() -> Architecture:
    return VIT


@pytest.fixture(scope="session")
def resnet() -> Architecture:
    return RESNET


@pytest.fixture(params=[VIT, RESNET], ids=lambda architecture: architecture.name)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    found: Architecture = request.param
    return found


@pytest.fixture
def build() -> Callable[[Architecture], ChineseClip]:
    """A function that builds a small model with random weights."""

    def build_model(architecture: Architecture) -> ChineseClip:
        torch.manual_seed(0)
        return randomised(ChineseClip(architecture))

    return build_model


@pytest.fixture
def vit_checkpoint(
    tmp_path: Path, vit: Architecture, build: Callable[[Architecture], ChineseClip]
) -> Path:
    path = tmp_path / "small-vit.pt"
    save_checkpoint(build(vit), path, half=True)
    return path


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Every engine of the small vision transformer, by `tower.precision`; do not change them."""
    folder = tmp_path_factory.mktemp("converted")
    torch.manual_seed(0)
    save_checkpoint(randomised(ChineseClip(VIT)), folder / "small.pt", half=True)
    models = convert(
        architecture=VIT, checkpoint=folder / "small.pt", save_prefix=folder / "models" / "small"
    )
    return {f"{card.tower}.{card.precision}": (card, path) for card, path in models}


@pytest.fixture
def copied_exports(converted: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have conversions of `vit_checkpoint` copy the engines of `converted`, and export nothing."""

    def copy(model: ChineseClip, tower: Tower, path: Path, **_: TensorSpec) -> None:
        precision = "fp16" if model.dtype == torch.float16 else "fp32"
        card, where = converted[f"{tower}.{precision}"]
        graph = onnx_ir.load(where.parent / card.engine)
        onnx_ir.save(graph, path, external_data=path.name + EXTRA_FILE_SUFFIX)

    monkeypatch.setattr("clipfleet.convert.conversion.export_tower", copy)


@pytest.fixture(scope="session")
def published(vit: Architecture) -> Architecture:
    """The small vision transformer, as one whose checkpoint a hub has."""
    return replace(vit, published=PublishedCheckpoint(repository="someone/small", file="small.pt"))


@pytest.fixture(scope="session")
def prepared(published: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a GPU, from a checkpoint of a hub; do not change it.

    Beside it are `small.json`, the architecture, and `downloads`.
    """
    above = tmp_path_factory.mktemp("prepared")
    (above / "small.json").write_bytes(TypeAdapter(Architecture).dump_json(published))
    torch.manual_seed(0)
    save_checkpoint(randomised(ChineseClip(VIT)), above / "checkpoint.pt", half=True)
    content = (above / "checkpoint.pt").read_bytes()
    assert published.published is not None
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(Hub(path=resolve_path(published.published), content=content)) as hub,
    ):
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setattr("clipfleet.convert.prepare.find_place", lambda: "no GPU")
        prepare(above / "small.json", above / "small", download_root=above / "downloads")
    return above / "small"


@pytest.fixture(scope="session")
def dynamic_onnx(prepared: Path) -> Path:
    """The small vision transformer's float32 image engine for any batch size; do not change it."""
    return prepared / "small.img.fp32.onnx"

"""Our model beside the original's: the same weights give the same features."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipfleet.architectures import (
    Architecture,
    ModifiedResNet,
    VisionTransformer,
    architecture_names,
    load_architecture,
)
from clipfleet.convert.model.chinese_clip import ChineseClip
from tests.original import original_utils

PUBLISHED = ("RN50", "ViT-B-16", "ViT-H-14", "ViT-L-14", "ViT-L-14-336")
RELATIVE_ERROR = 1e-5
ITEMS = 3


@pytest.fixture(scope="module")
def original_class() -> type[nn.Module]:
    """`cn_clip`'s own model."""
    found: type[nn.Module] = original_utils().CLIP
    return found


def original_of(original_class: type[nn.Module], architecture: Architecture) -> nn.Module:
    vision, text = architecture.vision, architecture.text
    if isinstance(vision, VisionTransformer):
        layers: Any = vision.layers
        patch_size, head_width = vision.patch_size, vision.head_width
    else:
        layers = list(vision.layers)
        patch_size, head_width = None, vision.width * 32 // vision.heads
    torch.manual_seed(0)
    model = original_class(
        embed_dim=architecture.dim,
        image_resolution=architecture.resolution,
        vision_layers=layers,
        vision_width=vision.width,
        vision_patch_size=patch_size,
        vision_head_width=head_width,
        vocab_size=text.vocabulary_size,
        text_attention_probs_dropout_prob=0.1,
        text_hidden_act="gelu",
        text_hidden_dropout_prob=0.1,
        text_hidden_size=text.width,
        text_initializer_range=0.02,
        text_intermediate_size=text.intermediate_width,
        text_max_position_embeddings=text.max_positions,
        text_num_attention_heads=text.heads,
        text_num_hidden_layers=text.layers,
        text_type_vocab_size=text.token_types,
    )
    return model.eval()


def randomise(model: nn.Module) -> None:
    """Move every value that starts as 0 or 1: a norm's, a bias, `bn3`, running statistics.

    In a freshly made ResNet every block is an identity, and any two would be equal.
    Convolutions are scaled as He et al. do (arXiv:1502.01852), from a third of that
    variance: else the picture fades on its way through the layers. BERT's matrices are
    scaled to keep their inputs' size: else its GELU sees only its linear middle.
    """
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        if key.endswith("running_var") or (value.is_floating_point() and bool((value == 1).all())):
            value.copy_(0.5 + noise)
        elif value.is_floating_point() and not value.any():
            value.copy_(0.4 * noise - 0.2)
            if key.endswith("bn3.weight"):
                value.copy_(0.2 + 0.4 * noise)
        elif value.dim() == 4:
            value.mul_(6**0.5)
        elif value.dim() == 2 and key.startswith("bert.encoder"):
            value.mul_(1 / (0.02 * value.shape[1] ** 0.5))


def shrunk(architecture: Architecture) -> Architecture:
    """The same structure with few, narrow layers."""
    vision = architecture.vision
    if isinstance(vision, VisionTransformer):
        vision = replace(vision, layers=2, width=2 * vision.head_width)
        resolution = 3 * vision.patch_size + 5  # the original drops the rest of a patch
    else:
        vision = replace(vision, width=8, heads=4)
        resolution = 64
    return replace(
        architecture,
        dim=24,
        resolution=resolution,
        vision=vision,
        text=replace(
            architecture.text,
            vocabulary_size=500,
            layers=min(architecture.text.layers, 3),
            width=4 * architecture.text.heads,
            intermediate_width=16 * architecture.text.heads,
            max_positions=60,
        ),
    )


def assert_equal(features: Tensor, expected: Tensor) -> None:
    error = torch.linalg.norm(features - expected, dim=1) / torch.linalg.norm(expected, dim=1)
    assert error.max() <= RELATIVE_ERROR
    assert torch.allclose(features, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # Features that hardly depend on the item would be equal with any model.
    spread = torch.linalg.norm(expected[0] - expected[1]) / torch.linalg.norm(expected[0])
    assert spread > 100 * RELATIVE_ERROR


def check(original_class: type[nn.Module], architecture: Architecture) -> None:
    original = original_of(original_class, architecture)
    randomise(original)
    weights = original.state_dict()
    with torch.device("meta"):
        ours = ChineseClip(architecture)
    assert list(ours.state_dict()) == list(weights)
    ours.load_state_dict(weights, assign=True)
    ours.eval()
    side, generator = architecture.resolution, torch.Generator().manual_seed(2)
    pixels = torch.randn(ITEMS, 3, side, side, generator=generator)
    ids = torch.randint(1, architecture.text.vocabulary_size, (ITEMS, 52), generator=generator)
    ids[0, 7:] = 0
    ids[1, 30:] = 0
    with torch.inference_mode():
        assert_equal(ours.encode_image(pixels), original.encode_image(pixels))  # type: ignore[operator]
        assert_equal(ours.encode_text(ids), original.encode_text(ids))  # type: ignore[operator]


def test_the_published_architectures_are_known() -> None:
    assert set(PUBLISHED) <= set(architecture_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_small_model_of_each_structure_equals_the_original(
    original_class: type[nn.Module], name: str
) -> None:
    check(original_class, shrunk(load_architecture(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16", "RN50"])
def test_a_model_of_full_size_equals_the_original(
    original_class: type[nn.Module], name: str
) -> None:
    check(original_class, load_architecture(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_full_model_has_the_originals_keys_and_shapes(
    original_class: type[nn.Module], name: str
) -> None:
    architecture = load_architecture(name)
    with torch.device("meta"):
        ours = ChineseClip(architecture).state_dict()
        theirs = original_of(original_class, architecture).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [
        (key, value.shape) for key, value in theirs.items()
    ]


def test_initial_values_are_spread_as_the_originals(original_class: type[nn.Module]) -> None:
    for name in ("ViT-B-16", "RN50"):
        architecture = replace(
            load_architecture(name), text=replace(load_architecture("RN50").text, layers=1)
        )
        if isinstance(architecture.vision, ModifiedResNet):
            architecture = replace(
                architecture, vision=replace(architecture.vision, layers=(1, 1, 1, 1))
            )
        else:
            architecture = replace(architecture, vision=replace(architecture.vision, layers=1))
        theirs = original_of(original_class, architecture).state_dict()
        torch.manual_seed(3)
        for key, value in ChineseClip(architecture).state_dict().items():
            found, expected = value.float(), theirs[key].float()
            assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=0.01), key
            spread = (float(found.std(correction=0)), float(expected.std(correction=0)))
            assert spread[0] == pytest.approx(spread[1], rel=0.1, abs=1e-6), key

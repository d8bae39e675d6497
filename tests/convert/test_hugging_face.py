"""Hugging Face's own model, built from a configuration: nothing is downloaded."""

from pathlib import Path

import pytest
import torch
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from clipfleet.architectures import Architecture
from clipfleet.convert.checkpoints.load import build_model, load_checkpoint
from clipfleet.errors import CheckpointError


@pytest.fixture
def theirs(vit: Architecture) -> ChineseCLIPModel:
    torch.manual_seed(1)
    text, vision = vit.text, vit.vision
    assert vision.kind == "vit"
    config = ChineseCLIPConfig(
        text_config={
            "vocab_size": text.vocabulary_size,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "intermediate_size": text.intermediate_width,
            "max_position_embeddings": text.max_positions,
        },
        vision_config={
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.width // vision.head_width,
            "intermediate_size": 4 * vision.width,
            "image_size": vit.resolution,
            "patch_size": vision.patch_size,
        },
        projection_dim=vit.dim,
    )
    model: ChineseCLIPModel = ChineseCLIPModel(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are not left at 0 and 1
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def test_outputs_equal_those_of_transformers(
    tmp_path: Path, vit: Architecture, theirs: ChineseCLIPModel
) -> None:
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    checkpoint = load_checkpoint(path, vit)
    assert checkpoint.logit_scale == pytest.approx(theirs.logit_scale.item())
    ours = build_model(checkpoint, vit)
    torch.manual_seed(2)
    pixels = torch.randn(3, 3, vit.resolution, vit.resolution)
    ids = torch.randint(1, vit.text.vocabulary_size, (3, 20))
    ids[0, 5:] = 0
    with torch.no_grad():
        hidden = theirs.text_model(ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0]
        pooled = theirs.vision_model(pixels).pooler_output
        pairs = [
            (ours.encode_text(ids), theirs.text_projection(hidden)),
            (ours.encode_image(pixels), theirs.visual_projection(pooled)),
        ]
    for features, expected in pairs:
        assert torch.linalg.norm(features - expected) <= 1e-5 * torch.linalg.norm(expected)
        assert not torch.allclose(expected[0], expected[1], rtol=1e-2)


def test_a_missing_part_of_a_joined_matrix_is_an_error(
    tmp_path: Path, vit: Architecture, theirs: ChineseCLIPModel
) -> None:
    from safetensors.torch import save_file

    weights = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    del weights["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"resblocks\.1\.attn\.in_proj_weight' is missing"):
        load_checkpoint(path, vit)

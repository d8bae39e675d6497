"""Translate the keys of Hugging Face's `ChineseCLIPModel` into the original's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TEXT = "text_model."
_VISION = "vision_model."
_UNUSED = re.compile(r"text_model\.pooler\.|.*\.position_ids$")
_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)$")
_JOINED = ("q_proj", "k_proj", "v_proj")  # the original keeps them as one matrix, in this order

_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {  # Linear layers there, plain matrices in the original
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}
_BLOCK_NAMES = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def is_hugging_face(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has `ChineseCLIPModel`'s keys."""
    return any(key.startswith((_TEXT, _VISION)) for key in state_dict)


def from_hugging_face(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a `ChineseCLIPModel`'s weights under the original's keys.

    A key that the original does not have keeps its name, so that the check against the
    architecture names it.
    """
    renamed: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        block = _BLOCK.match(key)
        if _UNUSED.match(key):
            continue
        if key in _TRANSPOSED:
            renamed[_TRANSPOSED[key]] = value.T.contiguous()
        elif block:
            _rename_in_block(block[1], block[2], value, renamed, joined)
        elif key.startswith(_TEXT):
            renamed["bert." + key.removeprefix(_TEXT)] = value
        else:
            renamed[_NAMES.get(key, key)] = value
    for name, parts in joined.items():
        if len({part.shape for part in parts.values()}) == 1 and len(parts) == len(_JOINED):
            renamed[name] = torch.cat([parts[part] for part in _JOINED])
    return renamed


def _rename_in_block(
    number: str,
    rest: str,
    value: Tensor,
    renamed: dict[str, Tensor],
    joined: dict[str, dict[str, Tensor]],
) -> None:
    target = f"visual.transformer.resblocks.{number}."
    module, _, kind = rest.rpartition(".")
    part = module.rpartition(".")[2]
    if part in _JOINED:
        joined.setdefault(f"{target}attn.in_proj_{kind}", {})[part] = value
    else:
        renamed[f"{target}{_BLOCK_NAMES.get(module, module)}.{kind}"] = value

"""The two image towers: CLIP's vision transformer and its modified ResNet.

Attribute names are those of the published checkpoints' keys.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from clipfleet.architectures import ModifiedResNet, VisionTransformer
from clipfleet.convert.model.layers import LayerNorm, attend, merge_heads, split_heads, thirds

_EXPANSION = 4  # a bottleneck's output planes / its inner planes


class QuickGelu(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the weights and initial values of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        joint = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (split_heads(part, self.heads) for part in thirds(joint))
        out: Tensor = self.out_proj(merge_heads(attend(query, key, value)))
        return out


class ResidualBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGelu(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """The blocks of a vision transformer."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ResidualBlock(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resblocks(x)
        return out


class VisionTransformerTower(nn.Module):
    """Pixels (n, 3, S, S) to features (n, dim): the class token's, projected."""

    def __init__(self, vision: VisionTransformer, resolution: int, dim: int) -> None:
        super().__init__()
        width, patch = vision.width, vision.patch_size
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        tokens = (resolution // patch) ** 2 + 1
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, vision.layers, width // vision.head_width)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, dim))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # (n, tokens - 1, width)
        count = patches.shape[0]
        if isinstance(count, int):
            first = self.class_embedding.expand(count, 1, -1)
        else:  # a batch size that an export leaves open: TensorRT 8.6 takes no Expand to it
            first = patches[:, :1] * 0 + self.class_embedding
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class Bottleneck(nn.Module):
    """A ResNet block whose strides are average pools; its last norm starts at zero."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(inputs, outputs, 1, bias=False)),
                        ("1", nn.BatchNorm2d(outputs)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.pool(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + shortcut)


class AttentionPool(nn.Module):
    """Pools (n, C, H, W) to (n, dim): the mean of the positions attends to all of them."""

    def __init__(self, side: int, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, dim)
        for linear in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.avg_pool2d(x.float(), self.side).to(x.dtype)  # (n, C, 1, 1)
        x = torch.cat([mean.flatten(2), x.flatten(2)], dim=2).transpose(1, 2)  # (n, H·W + 1, C)
        x = x + self.positional_embedding
        query, key, value = (
            split_heads(part, self.heads)
            for part in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        )
        out: Tensor = self.c_proj(merge_heads(attend(query, key, value))[:, 0])
        return out


class ModifiedResNetTower(nn.Module):
    """Pixels (n, 3, S, S) to features (n, dim); an activation's side is S / 32 at the end."""

    def __init__(self, vision: ModifiedResNet, resolution: int, dim: int) -> None:
        super().__init__()
        width = vision.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(2)
        inputs = width
        for number, blocks in enumerate(vision.layers, start=1):
            planes = width * 2 ** (number - 1)
            stride = 1 if number == 1 else 2
            layer = [Bottleneck(inputs, planes, stride)]
            inputs = _EXPANSION * planes
            layer += [Bottleneck(inputs, planes, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layer))
        self.attnpool = AttentionPool(resolution // 32, inputs, vision.heads, dim)

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.pool(torch.relu(self.bn3(self.conv3(x))))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        out: Tensor = self.attnpool(x)
        return out

"""Count the floating-point operations of a tower for one item, from its architecture.

A multiplication and an addition are two operations. Counted is what `convert/model/chinese_clip.py`
computes in matrix products and convolutions; norms, softmax and activations are left out, as
is common (well under 1 %). Texts are counted at the full context length: engines compute
padding too.

    python -m bench.gpu.timing.flops
"""

from __future__ import annotations

from clipfleet.architectures import (
    TOWERS,
    Architecture,
    ModifiedResNet,
    TextTransformer,
    Tower,
    VisionTransformer,
    architecture_names,
    load_architecture,
)

_EXPANSION = 4  # a bottleneck's output planes / its inner planes
_COLOURS = 3


def item_flops(architecture: Architecture, tower: Tower) -> int:
    """Return the operations of one picture or one text."""
    if tower == "txt":
        return _text(architecture.text, architecture.context_length, architecture.dim)
    if isinstance(architecture.vision, VisionTransformer):
        return _vision_transformer(architecture.vision, architecture.resolution, architecture.dim)
    return _resnet(architecture.vision, architecture.resolution, architecture.dim)


def _product(rows: int, inner: int, columns: int) -> int:
    """(rows, inner) @ (inner, columns)."""
    return 2 * rows * inner * columns


def _attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum of all heads, whose widths sum to `width`."""
    return _product(queries, width, keys) + _product(queries, keys, width)


def _block(tokens: int, width: int, inner: int) -> int:
    """A transformer's block: query, key, value and output projections, attention, both halves."""
    projections = 4 * _product(tokens, width, width)
    return projections + _attention(tokens, tokens, width) + 2 * _product(tokens, width, inner)


def _text(text: TextTransformer, length: int, dim: int) -> int:
    block = _block(length, text.width, text.intermediate_width)
    return text.layers * block + _product(1, text.width, dim)


def _vision_transformer(vision: VisionTransformer, side: int, dim: int) -> int:
    patches = (side // vision.patch_size) ** 2
    embedding = _product(patches, _COLOURS * vision.patch_size**2, vision.width)
    block = _block(patches + 1, vision.width, 4 * vision.width)
    return embedding + vision.layers * block + _product(1, vision.width, dim)


def _convolution(side: int, inputs: int, outputs: int, kernel: int) -> int:
    """A square convolution whose result has `side` rows and columns."""
    return _product(side**2, inputs * kernel**2, outputs)


def _resnet(vision: ModifiedResNet, side: int, dim: int) -> int:
    width, half = vision.width, vision.width // 2
    side //= 2
    total = _convolution(side, _COLOURS, half, 3)
    total += _convolution(side, half, half, 3) + _convolution(side, half, width, 3)
    side //= 2
    inputs = width
    for number, blocks in enumerate(vision.layers):
        planes = width * 2**number
        stride = 1 if number == 0 else 2
        for block in range(blocks):
            total += _bottleneck(side, inputs, planes, stride if block == 0 else 1)
            inputs = _EXPANSION * planes
            side //= stride if block == 0 else 1
    return total + _attention_pool(side, inputs, dim)


def _bottleneck(side: int, inputs: int, planes: int, stride: int) -> int:
    """Three convolutions, and one in the shortcut where shapes change; `side` is the input's."""
    outputs, reduced = _EXPANSION * planes, side // stride
    total = _convolution(side, inputs, planes, 1) + _convolution(side, planes, planes, 3)
    total += _convolution(reduced, planes, outputs, 1)
    if stride > 1 or inputs != outputs:
        total += _convolution(reduced, inputs, outputs, 1)
    return total


def _attention_pool(side: int, width: int, dim: int) -> int:
    tokens = side**2 + 1
    projections = _product(1, width, width) + 2 * _product(tokens, width, width)
    return projections + _attention(1, tokens, width) + _product(1, width, dim)


def main() -> None:
    print("| architecture | tower | GFLOP an item |")
    print("|---|---|---:|")
    for name in architecture_names():
        architecture = load_architecture(name)
        for tower in TOWERS:
            print(f"| {name} | {tower} | {item_flops(architecture, tower) / 1e9:.3f} |")


if __name__ == "__main__":
    main()

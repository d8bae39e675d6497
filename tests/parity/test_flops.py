"""The counted operations are those of the real modules."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.timing.flops import item_flops
from clipfleet.architectures import architecture_names, load_architecture
from clipfleet.convert.model.chinese_clip import ChineseClip


@pytest.mark.parametrize("name", architecture_names())
def test_the_count_is_what_torch_counts(name: str) -> None:
    architecture = load_architecture(name)
    side, length = architecture.resolution, architecture.context_length
    with torch.device("meta"):  # shapes, no numbers
        model = ChineseClip(architecture).eval()
        with FlopCounterMode(display=False) as image:
            model.encode_image(torch.empty(1, 3, side, side))
        with FlopCounterMode(display=False) as text:
            model.encode_text(torch.empty(1, length, dtype=torch.int64))
    assert item_flops(architecture, "img") == image.get_total_flops()
    assert item_flops(architecture, "txt") == text.get_total_flops()


def test_a_vit_b_16_picture_is_35_gflop() -> None:
    assert item_flops(load_architecture("ViT-B-16"), "img") == pytest.approx(35.1e9, rel=0.01)

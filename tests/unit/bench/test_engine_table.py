"""The table of engines, from their cards."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu.engine_table import main
from clipfleet.model_card import BatchProfile, Build, Parity, write_card
from clipfleet.workers.engines.fake import fake_card


def test_a_card_gives_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = BatchProfile(smallest=1, optimum=8, largest=32)
    build = Build(
        onnx="vit.txt.fp16.onnx",
        onnx_sha256="0" * 64,
        seconds=61.4,
        optimization_level=3,
        workspace_bytes=None,
        timing_cache=None,
        typing="weak",
        size_bytes=2_340_000,
    )
    parity = Parity(
        reference="fp32",
        items=64,
        cosine_min=0.99991234,
        cosine_mean=0.99999,
        max_abs_diff=0.0125,
        threshold=0.999,
        cosine_between_items=0.5,
    )
    card = replace(
        fake_card("txt"),
        engine="vit.txt.fp16.trt",
        precision="fp16",
        profile=profile,
        build=build,
        parity=parity,
    )
    write_card(card, tmp_path / "vit.txt.fp16.trt.card.json")
    main([str(tmp_path / "vit.txt.fp16.trt.card.json")])
    printed = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in printed}) == 1
    assert printed[2:] == [
        "| vit txt | fp16 | 1 to 32 | 61 | 2.3 | 0.9999123 | 0.9999900 | 0.013 | 0.500 | 64 |"
    ]

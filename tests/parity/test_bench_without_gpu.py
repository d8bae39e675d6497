"""The speed benchmark on a machine without a GPU, with the real runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu import measure
from bench.gpu.machine import Clocks
from clipfleet.architectures import load_architecture
from clipfleet.convert.benchmark.inputs import random_inputs
from clipfleet.convert.benchmark.runtimes import Target
from tests.unit.bench.support import MACHINE

CLOCKS = Clocks(sm_mhz=1755, memory_mhz=2619, temperature_c=41, power_w=95)
MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model" / "demo"


def test_without_a_gpu_every_other_runtime_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(measure, "clocks_now", lambda: CLOCKS)
    architecture = load_architecture("demo")
    others = measure.Plan(
        target=Target(architecture=architecture, tower="txt", batch_size=1, context_length=52),
        inputs=random_inputs(architecture, "txt", count=64),
        checkpoint=Path(f"{MODEL}.pt"),
        onnx=Path(f"{MODEL}.txt.fp16.onnx"),
        engine=None,
        engine_b32=None,
    )
    found = measure.run(others, "today", tmp_path / "out.json")
    assert list(found.cells) == ["pytorch", "pytorch-graph", "pytorch-graph-b32", "onnx"]
    assert all(cell.missing for cell in found.cells.values())
    assert "provider is cuda" in (found.cells["onnx"].missing or "")
    assert found.ceiling_tflops is None

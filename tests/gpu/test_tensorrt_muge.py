"""The guide's whole run on a GPU: TensorRT's recall beside ONNX's and, where torch is, PyTorch's.

    python -m pytest -s -m gpu tests/gpu/test_tensorrt_muge.py

The engines are built here, behind the recall gate.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tensorrt")

from clipfleet.model_card import load_card
from examples.demo.muge import write
from examples.demo.scenes import close_pictures
from tests.gpu.support import ROOT, clipfleet, draw

pytestmark = pytest.mark.gpu

MODEL = ROOT / "examples" / "demo" / "model"
PICTURES = 1000
SAMPLE = 300
LEAST_OVERLAP = 0.95
BUILD_S = 420.0
RUN_S = 300.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model folder with TensorRT engines that passed the recall gate."""
    folder = tmp_path_factory.mktemp("models") / "demo"
    shutil.copytree(MODEL, folder)
    sample = draw(tmp_path_factory.mktemp("sample"), SAMPLE)
    onnx = [folder / f"demo.{tower}.fp16.onnx" for tower in ("img", "txt")]
    gate = ("--gate-sample", sample / "images", "--gate-sample", sample / "captions.jsonl")
    clipfleet("build", *onnx, *gate, "--min-overlap", str(LEAST_OVERLAP), timeout_s=BUILD_S)
    return folder


def test_engines_are_built_behind_the_recall_gate(model: Path) -> None:
    for tower in ("img", "txt"):
        parity = load_card(model / f"demo.{tower}.fp16.trt")[0].parity
        assert parity is not None
        print(f"\n{tower}: cosine {parity.cosine_min:.7f}, overlap {parity.overlap}")
        assert parity.overlap is not None
        assert parity.overlap >= LEAST_OVERLAP
        assert parity.overlap_items == (SAMPLE if tower == "img" else 2 * SAMPLE)


def test_tensorrt_has_the_recall_of_the_reference(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "MUGE"
    write(data, close_pictures(count=PICTURES, seed=1, split="held-out"))
    has_torch = importlib.util.find_spec("torch") is not None
    result = clipfleet("muge", data, "--model", model, timeout_s=RUN_S)
    for row in result["rows"]:
        print(f"\n{row}")
    rows = {row["runtime"]: row for row in result["rows"]}
    assert result["reference"] == ("PyTorch fp32" if has_torch else "ONNX fp32")
    assert not rows["TensorRT fp16"]["not_run"]
    assert rows["TensorRT fp16"]["failed"] == 0
    assert result["ok"]
    assert result["largest_difference"] <= 0.2

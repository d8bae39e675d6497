"""The recall gate: an engine that finds other neighbours than its reference is not kept."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.convert.from_onnx import convert_onnx
from clipfleet.convert.gate import Gate, gate_check
from clipfleet.convert.parity import Features, measure_parity
from clipfleet.errors import SourceError, VerificationError
from clipfleet.items import Item
from clipfleet.model_card import Parity, load_card
from clipfleet.retrieval.evaluation.overlap import top_k_overlap
from clipfleet.storage.sources.sample import MIN_SAMPLE
from clipfleet.workers.engines.fake import FakeEngine, fake_card
from examples.demo.scenes import close_pictures
from tests.integration.support import run_command

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo" / "model"
COUNT = 120
TEXTS = [
    Item(id=str(n), text=picture.chinese)
    for n, picture in enumerate(close_pictures(count=COUNT, seed=3))
]
PARITY = Parity(
    reference="float32",
    items=8,
    cosine_min=0.99999,
    cosine_mean=0.99999,
    max_abs_diff=0.001,
    threshold=0.9999,
)


def gate(min_overlap: float) -> Gate:
    return Gate(samples={"txt": TEXTS}, min_overlap=min_overlap, overlap=top_k_overlap)


def moved(features: Features, share: float) -> Features:
    """Return features that have moved a little: noise of a share of their size."""
    noise = np.random.default_rng(0).standard_normal(features.shape).astype(np.float32)
    norms = [np.linalg.norm(array, axis=1, keepdims=True) for array in (features, noise)]
    found: Features = features + share * norms[0] * noise / norms[1]
    return found


def test_the_gate_sees_what_a_cosine_does_not() -> None:
    """Features that lie close together keep their cosines, and lose their neighbours."""
    fake = FakeEngine(fake_card("txt", dim=8))

    def crowded(inputs: NDArray[Any]) -> Features:
        features: Features = fake(inputs) + np.float32(100)
        return features

    def strayed(inputs: NDArray[Any]) -> Features:
        return moved(crowded(inputs), 0.01)

    check = gate_check(gate(0.95), "txt", 52, crowded)
    assert check(_running(crowded), PARITY).overlap == 1.0
    ids = np.zeros((2, 52), np.int64)
    parity = measure_parity(strayed(ids), crowded(ids), threshold=0.9999, reference_name="float32")
    assert parity.passed
    with pytest.raises(VerificationError, match=r"of each of 120 items it keeps 0\.\d+, below"):
        check(_running(strayed), parity)


def _running(call: Any) -> Any:
    """Return an engine that computes something else."""
    engine = FakeEngine(fake_card("txt", dim=8))
    return type("Running", (), {"card": engine.card, "__call__": staticmethod(call)})()


def test_a_tower_without_a_sample_has_no_gate() -> None:
    def reference(_: NDArray[Any]) -> Features:
        raise AssertionError("nothing is computed")

    assert gate_check(gate(1.0), "img", 96, reference)(_running(reference), PARITY) is PARITY
    assert gate_check(None, "txt", 52, reference)(_running(reference), PARITY) is PARITY


def test_an_engine_without_a_vector_for_an_item_is_not_kept() -> None:
    engine = FakeEngine(fake_card("txt", dim=8))
    check = gate_check(gate(0.0), "txt", 52, engine)
    with pytest.raises(VerificationError, match="gives items of the gate's sample no vector"):
        check(_running(lambda inputs: engine(inputs) * 0), PARITY)


def test_a_picture_of_the_sample_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = Item(id="cat", uri=str(tmp_path / "cat.jpg"))
    one = Gate(samples={"img": [missing]}, min_overlap=0.95, overlap=top_k_overlap)
    with pytest.raises(SourceError, match="picture 'cat' of the gate's sample cannot be read"):
        gate_check(one, "img", 96, lambda pixels: pixels[:, 0, 0])


def test_a_conversion_keeps_what_passes_the_gate_and_refuses_what_does_not(tmp_path: Path) -> None:
    source = DEMO / "demo.txt.fp32.onnx"
    overlaps = iter([1.0, 0.93])  # of float32 and of float16

    def convert(min_overlap: float, prefix: Path) -> None:
        one = Gate(
            samples={"txt": TEXTS}, min_overlap=min_overlap, overlap=lambda *_: next(overlaps)
        )
        convert_onnx(source, architecture="demo", save_prefix=prefix, gate=one)

    with pytest.raises(VerificationError, match=r"keeps 0\.9300, below --min-overlap 0\.95"):
        convert(0.95, tmp_path / "m")
    assert [path.name for path in sorted(tmp_path.glob("*.onnx"))] == ["m.txt.fp32.onnx"]


def test_the_command_of_the_guide_gates_each_tower_that_has_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # the gate compares with NumPy
    page = (ROOT / "docs" / "how-to" / "muge.md").read_text(encoding="utf-8")
    [line] = [line for line in page.splitlines() if line.startswith("clipfleet convert")]
    options = shlex.split(line)[4:]
    (tmp_path / "photos").mkdir()
    for n in range(MIN_SAMPLE):
        (tmp_path / "photos" / f"{n}.jpg").touch()  # not read: only the text tower is converted
    sample = tmp_path / "captions.jsonl"
    lines = [json.dumps({"id": item.id, "text": item.text}) + "\n" for item in TEXTS]

    def convert(*more: str) -> CompletedProcess[str]:
        onnx = str(DEMO / "demo.txt.fp32.onnx")
        return run_command("convert", "demo", "m", "--from-onnx", onnx, *more, cwd=tmp_path)

    sample.write_text("".join(lines[: MIN_SAMPLE - 1]))
    few = convert(*options)
    assert few.returncode == 2
    assert "has 99 items: give at least 100" in few.stderr
    sample.write_text("".join(lines))
    done = convert(*options)
    assert done.returncode == 0, done.stderr
    parity = load_card(tmp_path / "m.txt.fp16.onnx")[0].parity
    assert parity is not None
    assert parity.overlap_items == COUNT
    assert parity.overlap is not None
    assert parity.overlap >= 0.95
    assert f"overlap {parity.overlap:.4f} on 120" in done.stdout
    twice = convert("--gate-sample", str(sample), "--gate-sample", str(sample))
    assert "is the second of the txt tower" in twice.stderr
    assert "--min-overlap needs a sample" in convert("--min-overlap", "0.9").stderr

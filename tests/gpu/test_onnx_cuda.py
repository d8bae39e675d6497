"""The demo's engines on ONNX Runtime's CUDA provider, and a worker that runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfleet.model_card import ModelCard, load_card
from clipfleet.workers.engines.base import l2_normalise
from clipfleet.workers.engines.onnx import OnnxEngine, Provider
from tests.gpu.support import ROOT, clipfleet, draw, vectors

DEMO = ROOT / "examples" / "demo" / "model" / "demo"
# The prefix of the models to try: the demo's, or another that was converted here.
PREFIX = Path(os.environ.get("TEST_MODEL", DEMO))
CUDA = "CUDAExecutionProvider"
ITEMS = 64
RUN_S = 240.0
VOCABULARY_SIZE = 21128
# The worst item's cosine to the float32 engine on the CPU.
THRESHOLDS = {"fp32": 0.999999, "fp16": 0.9999}

pytestmark = pytest.mark.gpu


def engine(tower: str, precision: str, provider: Provider) -> OnnxEngine:
    card, path = load_card(f"{PREFIX}.{tower}.{precision}.onnx")
    return OnnxEngine(card, path, provider=provider)


def inputs(card: ModelCard) -> NDArray[np.generic]:
    random = np.random.default_rng(0)
    shape = (ITEMS, *(size or 1 for size in card.input.shape[1:]))
    if card.tower == "img":
        return random.normal(size=shape).astype(np.float32)
    ids = random.integers(1, VOCABULARY_SIZE, size=shape)
    lengths = random.integers(3, card.context_length + 1, size=ITEMS)
    return np.where(np.arange(card.context_length) < lengths[:, None], ids, 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("tower", ["img", "txt"])
def test_vectors_on_the_gpu_are_those_of_the_cpu(tower: str, precision: str) -> None:
    with engine(tower, "fp32", "cpu") as reference, engine(tower, precision, "cuda") as tested:
        assert tested.provider == CUDA
        batch = inputs(reference.card)
        expected, got = (l2_normalise(e(batch)) for e in (reference, tested))
    cosines = np.einsum("nd,nd->n", expected, got)
    print(f"\n{tower} {precision}: worst cosine {cosines.min():.8f}")
    assert cosines.min() >= THRESHOLDS[precision]


def test_auto_takes_the_gpu() -> None:
    with engine("txt", "fp32", "auto") as tested:
        assert tested.provider == CUDA


def test_a_worker_that_must_use_the_gpu_refuses_to_fall_back() -> None:
    script = (
        "from tests.gpu.test_onnx_cuda import engine; from clipfleet.errors import EngineError\n"
        "try: engine('txt', 'fp32', 'cuda')\n"
        "except EngineError as error: print(error)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "provider is cuda" in run.stdout


def test_a_job_runs_on_the_gpu_from_the_folder_to_the_proof(tmp_path: Path) -> None:
    pictures = draw(tmp_path / "scenes", 2000) / "images"
    found = {}
    for provider in ("cuda", "cpu"):
        engine = ("--model", f"{DEMO}.img.fp32.onnx", "--provider", provider)
        stored = ("--dtype", "float32", "--shard-size", "256")
        out = tmp_path / provider
        result = clipfleet("embed", pictures, out, *engine, *stored, timeout_s=RUN_S)
        print(f"\n{provider}: {result['seconds']} s")
        _, found[provider] = vectors(out)
    cosines = np.einsum("nd,nd->n", found["cuda"], found["cpu"])
    assert len(cosines) == 2000
    assert cosines.min() >= THRESHOLDS["fp32"]

"""`bench/gpu/embed_demo`, on the CPU: pictures and captions are drawn, embedded and proved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipfleet.storage.verify.verify import verify_dataset

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo" / "model" / "demo"


def embed_demo(out: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CLIPFLEET_")}
    return subprocess.run(
        ["bench/gpu/embed_demo", str(out), *map(str, arguments)],
        cwd=ROOT,
        env={**kept, "PYTHON": f"env A=1 {sys.executable}", "WORKERS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_pictures_and_captions_are_embedded_and_proved(tmp_path: Path) -> None:
    run = embed_demo(tmp_path, f"{MODEL}.img.fp32.onnx", f"{MODEL}.txt.fp32.onnx", 50)
    assert run.returncode == 0, run.stdout + run.stderr
    images, captions = (
        verify_dataset(str(tmp_path / "vectors" / name)) for name in ("images", "captions")
    )
    assert images.ok
    assert captions.ok
    assert (images.vectors, captions.vectors) == (50, 100)  # a caption in each language
    assert (tmp_path / "summary").read_text() == run.stdout
    assert "  50 items in " in run.stdout
    assert "engines' start included" in run.stdout


def test_an_engine_that_is_not_there_ends_it(tmp_path: Path) -> None:
    run = embed_demo(tmp_path, tmp_path / "no.trt", f"{MODEL}.txt.fp32.onnx", 2)
    assert run.returncode == 2
    assert "no model card at" in run.stderr

"""The script that builds what is measured: it makes what is missing, and says what failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.support import PATIENCE_S

ROOT = Path(__file__).parents[2]
# Stands for both interpreters: writes down what it is asked, and fails on what FAIL says.
STAND_IN = f"""#!/bin/sh
case "$*" in *engine_table*) exec {sys.executable} "$@" ;; esac
echo "$*" >>"$ASKED"
case "$*" in *"$FAIL"*) echo "no room"; exit 2 ;; esac
"""


def engines(folder: Path, *, fail: str = "nothing") -> tuple[subprocess.CompletedProcess[str], str]:
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    asked = folder / "asked"
    asked.write_text("")
    run = subprocess.run(
        ["bench/gpu/engines", str(folder / "out")],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHON": f"env A=1 {folder / 'python'}",
            "ASKED": str(asked),
            "FAIL": fail,
            "MODELS": "RN50 ViT-B-16",
            "TOWERS": "img",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return run, asked.read_text()


def test_every_engine_is_built_and_the_table_says_how(tmp_path: Path) -> None:
    run, asked = engines(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    builds = [line for line in asked.splitlines() if " build " in line]
    names = ["RN50.img.fp16.onnx", "ViT-B-16.img.fp16.onnx", "ViT-B-16-b32.img.fp16.onnx"]
    assert sum(any(f"/{name}" in line for line in builds) for name in names) == len(builds) == 3
    assert all("/ViT-B-16" in line for line in builds[:2])
    text = (tmp_path / "out" / "engines.md").read_text()
    assert "before all others: ViT-B-16.img ViT-B-16-b32.img and the others after them" in text


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("RN50.img.fp16.onnx.card.json", "RN50.pt", "ViT-B-16-b32.img.fp16.onnx.card.json"):
        (tmp_path / "out" / name).touch()
    (tmp_path / "out" / "RN50.img.fp16.trt.card.json").touch()
    _, asked = engines(tmp_path)
    assert "RN50" not in asked
    assert "--dynamic-batch" not in asked
    assert asked.count(" build ") == 2


@pytest.mark.parametrize("fail", ["--make", "convert ViT", "build", "--batch-size 32"])
def test_a_step_that_fails_is_told_and_is_the_exit_code(tmp_path: Path, fail: str) -> None:
    run, asked = engines(tmp_path, fail=fail)
    assert run.returncode == 1
    assert "failed after" in run.stdout
    assert "no room" in run.stdout
    assert asked.count(" build ") == 3  # the others are tried
    assert engines(tmp_path)[0].returncode == 0  # a failure of an earlier run is forgotten

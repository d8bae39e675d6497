"""The script that measures everything: it comes to an end and to a table, whatever is missing."""

import os
import subprocess
import sys
from pathlib import Path

from bench.gpu.measurement import read_measurements

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo" / "model"
SMI = """#!/bin/sh
case "$1" in
  *name*) echo "NVIDIA H100, GPU-1, 580, 1980, 700" ;;
  *) echo "1755, 2619, 41, 95" ;;
esac
"""


def test_a_machine_without_engines_gives_a_table_of_reasons(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    (out / "demo.txt.tensorrt.json").write_text("of an earlier session")
    run = subprocess.run(
        ["bench/gpu/run", str(out)],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": f"env CUDA_VISIBLE_DEVICES= {sys.executable}",
            "TRT_PYTHON": sys.executable,
            "MODELS": "demo",
            "TOWERS": "txt",
            "ENGINES": str(tmp_path),
            "ONNX": str(MODEL),
            "CHECKPOINTS": str(MODEL),
            "SESSION": "today",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "all.json",
        "demo.txt.tensorrt.json",
        "demo.txt.tensorrt.log",
        "demo.txt.torch.json",
        "demo.txt.torch.log",
        "plot.svg",
        "table.md",
    ]
    table = (out / "table.md").read_text()
    assert "| demo | txt | – (1) | – (1) | – (2) | – (3) | – (3) | – (4) |" in table
    assert "(3) no file demo.txt.fp16.trt; (4) no file demo-b32.txt.fp16.trt" in table
    assert table in run.stdout
    assert {part.session for part in read_measurements(out / "all.json")} == {"today"}

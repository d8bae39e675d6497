"""What the processes of each role must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo" / "model" / "demo.txt.fp32.onnx"
HEAVY = ("onnxruntime", "torch", "tensorrt", "onnx")


@pytest.mark.parametrize(
    ("role", "module", "forbidden"),
    [
        ("the command line", "clipfleet.cli", (*HEAVY, "pyarrow", "celery")),
        ("a producer", "tasks.submit", HEAVY),
        ("a worker's parent process", "tasks.worker", HEAVY),
        ("a worker's child", "tasks.embed", ("torch", "onnx")),
        ("the pipeline", "workers.pipeline", ("torch", "onnx")),
        ("the building of engines", "convert.onnx_to_tensorrt", ("torch", "onnx", "tensorrt")),
        ("the builder's process", "convert.tensorrt_child", ("torch", "onnx", "tensorrt")),
        ("the adoption of engines", "convert.adopt", ("torch", "onnx", "tensorrt")),
        ("a dataset's reader", "storage.dataset", (*HEAVY, "celery")),
    ],
)
def test_light_imports(role: str, module: str, forbidden: tuple[str, ...]) -> None:
    script = (
        f"import sys, {module}; print(*[m for m in {forbidden!r} if m in sys.modules], sep=',')"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "", f"{role} loads {run.stdout.strip()}"


def test_loading_and_running_an_engine_imports_no_torch() -> None:
    code = f"""
import sys
from clipfleet.jobs import Item
from clipfleet.settings import Settings
from workers.pipeline import Embedder
with Embedder.from_settings(Settings(model={str(MODEL)!r})) as embedder:
    assert len(embedder.embed([Item(id="a", text="猫")]).items) == 1
assert "onnxruntime" in sys.modules
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""What each role loads: a producer no engine, a worker no torch, the package next to nothing."""

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
        ("the package", "clipfleet", (*HEAVY, "celery", "pyarrow", "numpy", "pydantic", "redis")),
        ("the command line", "clipfleet.cli.main", (*HEAVY, "pyarrow", "celery")),
        ("the public functions", "clipfleet.api", (*HEAVY, "pyarrow", "celery")),
        ("a producer of shards", "clipfleet.tasks.submit.submit", HEAVY),
        ("a producer of items", "clipfleet.tasks.items.queue", HEAVY),
        ("the guide's conversion, until it converts", "clipfleet.convert.pytorch_to_onnx", HEAVY),
        ("a worker's parent process", "clipfleet.tasks.worker.main", HEAVY),
        ("a worker's child", "clipfleet.tasks.embed_shard", ("torch", "onnx")),
        ("the pipeline", "clipfleet.workers.embedder", ("torch", "onnx")),
        ("the preparation, until it converts", "clipfleet.convert.prepare", HEAVY),
        (
            "the building of engines",
            "clipfleet.convert.onnx_to_tensorrt",
            ("torch", "onnx", "tensorrt"),
        ),
        (
            "the builder's process",
            "clipfleet.convert.tensorrt.builder_main",
            ("torch", "onnx", "tensorrt"),
        ),
        (
            "the adoption of engines",
            "clipfleet.convert.tensorrt.adopt",
            ("torch", "onnx", "tensorrt"),
        ),
        ("a dataset's reader", "clipfleet.reader", (*HEAVY, "celery")),
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


def test_the_package_loads_no_other_module() -> None:
    """It takes some milliseconds then, on any machine: `python -X importtime -c …` says how many.

    `-S`: what site-packages load by themselves is not ours.
    """
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); before = set(sys.modules); import clipfleet; "
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["clipfleet"]


def test_loading_and_running_an_engine_imports_no_torch() -> None:
    code = f"""
import sys
from clipfleet.items import Item
from clipfleet.settings import Settings
from clipfleet.workers.embedder import Embedder
with Embedder.from_settings(Settings(model={str(MODEL)!r})) as embedder:
    assert len(embedder.embed([Item(id="a", text="猫")]).items) == 1
assert "onnxruntime" in sys.modules
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

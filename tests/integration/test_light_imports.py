"""What each role loads: a producer no engine, a worker no torch, the package next to nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "demo" / "model" / "demo.txt.fp32.onnx"
HEAVY = ("onnxruntime", "torch", "tensorrt", "onnx", "prometheus_client")

# Each row forbids no more than the row before it: one process imports all modules in this order.
ROLES = (
    ("the package", "clipfleet", (*HEAVY, "celery", "pyarrow", "numpy", "pydantic", "redis")),
    (
        "a decoder",
        "clipfleet.workers.images.decoder_process",
        (*HEAVY, "celery", "pyarrow", "pydantic", "redis"),
    ),
    ("the command line", "clipfleet.cli.main", (*HEAVY, "pyarrow", "celery")),
    ("what looks after datasets", "clipfleet.api.datasets", (*HEAVY, "pyarrow", "celery")),
    ("what embeds", "clipfleet.api.embedding", (*HEAVY, "pyarrow", "celery")),
    (
        "the public functions about vectors",
        "clipfleet.api.recall",
        (*HEAVY, "pyarrow", "celery"),
    ),
    ("a dataset's reader", "clipfleet.reader", (*HEAVY, "celery")),
    ("a producer of shards", "clipfleet.tasks.submit.submit", HEAVY),
    ("a producer of items", "clipfleet.tasks.items.queue", HEAVY),
    ("the guide's conversion, until it converts", "clipfleet.convert.pytorch_to_onnx", HEAVY),
    ("the preparation, until it converts", "clipfleet.convert.prepare", HEAVY),
    ("a worker's parent process", "clipfleet.tasks.worker.main", HEAVY),
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
    ("the adoption of engines", "clipfleet.convert.tensorrt.adopt", ("torch", "onnx", "tensorrt")),
    ("a worker's child", "clipfleet.tasks.embed_shard", ("torch", "onnx")),
    ("the pipeline", "clipfleet.workers.embedder", ("torch", "onnx")),
)

LOADED = """
import importlib, json, sys
for role, module, forbidden in json.loads(sys.argv[1]):
    importlib.import_module(module)
    if loaded := [name for name in forbidden if name in sys.modules]:
        sys.exit(f"{role} loads {loaded}")
"""


def test_each_role_loads_no_more_than_it_needs() -> None:
    for (_, _, earlier), (_, _, later) in pairwise(ROLES):
        assert set(earlier) >= set(later)
    command = [sys.executable, "-c", LOADED, json.dumps(ROLES)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_package_and_its_script_load_no_other_module() -> None:
    """They take some milliseconds then, on any machine: `python -X importtime -c …` says how many.

    Each engine process imports the script. `-S`: what site-packages load by themselves is not ours.
    """
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [module] = re.findall(r'^clipfleet = "(.+):main"', project, flags=re.MULTILINE)
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); before = set(sys.modules); import {module}; "
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["clipfleet", module]


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

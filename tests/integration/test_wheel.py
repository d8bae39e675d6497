"""The wheel: one top-level name, and a user's modules of any name beside it do no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clipfleet.tasks.local.redis_server import private_redis

pytestmark = pytest.mark.timeout(1200)  # packages are installed

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples/demo/model/demo.img.fp32.onnx"

# Names that a user's own program has, or that a folder of clipfleet's repository has.
STUMBLING_STONES = (
    *("tasks.py", "storage.py", "convert.py", "settings.py", "items.py", "messages.py", "api.py"),
    *("queue_items.py", "redis_client.py", "celeryconfig_of_mine.py", "dataset.py", "model.py"),
)

PRODUCER = """
import sys
import clipfleet
from clipfleet import ItemQueue, Settings

with ItemQueue("img", settings=Settings(redis_url=sys.argv[1])) as queue:
    queue.put([{"id": "one", "uri": sys.argv[2]}])
    print(queue.length())
"""

API = """
import sys
import clipfleet

print(len(clipfleet.Dataset(sys.argv[1])), clipfleet.verify(sys.argv[1]).ok)
with clipfleet.load_model(sys.argv[2]) as model:
    print(model.encode_images([sys.argv[3]]).shape)
print(clipfleet.TensorRTModel.__name__)
"""


IMPORT_ALL = """
import importlib, pkgutil, sys
import clipfleet

names = [m.name for m in pkgutil.walk_packages(clipfleet.__path__, "clipfleet.")]
needs_more = ("clipfleet.convert.", "clipfleet.workers.engines.torch")  # PyTorch, onnx
for name in names:
    if not name.startswith(needs_more) and not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_clipfleet_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"clipfleet"}
    for needed in (
        "clipfleet/py.typed",
        "clipfleet/tasks/app.py",
        "clipfleet/retrieval/search/contact_sheet.css",
        "clipfleet/workers/text/vocab.txt",
        "clipfleet/workers/images/samples/cat.jpg",
        "clipfleet/architectures/ViT-B-16.json",
        "clipfleet/retrieval/serve/page/index.html",
    ):
        assert needed in names
    # One way from source to wheel: what `pip` makes of the source archive is this wheel.
    archive = next(wheel.parent.glob("*.tar.gz"))
    with tarfile.open(archive) as source:
        modules = {n.partition("/")[2] for n in source.getnames() if n.endswith(".py")}
        assert all(not member.issym() for member in source.getmembers())
    assert modules == {name for name in names if name.endswith(".py")}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CPython 3.10 with the wheel and its own packages; `test_readme.py` has this interpreter."""
    found = _python_310()
    if found is None:
        pytest.fail("no CPython 3.10") if os.environ.get("CI") else pytest.skip("no CPython 3.10")
    venv = tmp_path_factory.mktemp("venv")
    python = venv / "bin/python"
    subprocess.run([str(found), "-m", "venv", "--without-pip", str(venv)], check=True)
    install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", str(python)]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, *constraints, f"{wheel}[cpu,s3,serve]"], check=True)
    return python


def _python_310() -> str | None:
    """Return a CPython 3.10 that runs; a version manager may have a stand-in that does not."""
    managed = Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")
    for candidate in filter(None, [shutil.which("python3.10"), *map(str, managed)]):
        if subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    return None


def test_every_module_of_a_worker_and_a_producer_imports(python: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [python, "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100


def test_a_users_modules_of_the_same_names_do_no_harm(python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in STUMBLING_STONES:
        (folder / name).write_text(f"raise RuntimeError('the user\\'s own {name} was imported')\n")
    (folder / "workers").mkdir()
    (folder / "workers/__init__.py").write_text("raise RuntimeError('the user\\'s own workers')\n")
    picture = folder / "pictures/one.jpg"
    picture.parent.mkdir()
    Image.effect_noise((64, 48), 64).convert("RGB").save(picture)

    def run(*arguments: object) -> str:
        command = [str(python), *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    embedded = run("-m", "clipfleet", "embed", "pictures", "vectors", "--model", MODEL)
    assert "whole: every item once" in embedded
    assert run("-c", API, "vectors", MODEL, picture) == "1 True\n(1, 128)\nTensorRTModel\n"
    _run_a_worker(python, folder, picture, run)


def _run_a_worker(python: Path, folder: Path, picture: Path, run: Callable[..., str]) -> None:
    with private_redis() as url:
        assert run("-c", PRODUCER, url, picture) == "1\n"
        command = [
            str(python),
            "-m",
            "clipfleet",
            "worker",
            "--tower",
            "img",
            "--model",
            str(MODEL),
        ]
        worker = subprocess.Popen(
            [*command, "--output", "out", "--redis-url", url],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert worker.stderr is not None
            for line in worker.stderr:
                assert "RuntimeError" not in line
                if "items embedded" in line:
                    break
        finally:
            worker.terminate()
            worker.communicate()
    assert run("-m", "clipfleet", "verify", "out/items-img").count("whole:") == 1

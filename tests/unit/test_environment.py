"""Settings are passed in: the only places that read the environment, and why each does."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from clipfleet.settings import Settings
from clipfleet.storage.filesystem.open_filesystem import STORE_TIMEOUT_S

ROOT = Path(__file__).parents[2]
PACKAGES = ("clipfleet", "storage", "retrieval", "workers", "tasks", "convert")

# The public functions and the command line, and the application that `celery --app
# clipfleet.tasks.app` asks for.
MAKES_SETTINGS = {
    "clipfleet/__init__.py",
    "clipfleet/api/both_towers.py",
    "clipfleet/api/datasets.py",
    "clipfleet/api/embedding.py",
    "clipfleet/api/recall.py",
    "clipfleet/api/reports.py",
    "clipfleet/cli/options.py",
    "clipfleet/model.py",
    "clipfleet/reader.py",
    "retrieval/build_index.py",
    "retrieval/dedupe/deduplicate.py",
    "retrieval/export/export.py",
    "retrieval/verify_index.py",
    "tasks/app.py",
    "tasks/items/queue.py",
}

READS_THE_ENVIRONMENT = {
    "clipfleet/settings/__init__.py": "the settings",
    "clipfleet/gpus.py": "CUDA_VISIBLE_DEVICES, which is CUDA's",
    "convert/checkpoints/download.py": "HF_ENDPOINT, which is Hugging Face's",
    "convert/tensorrt/builder_process.py": "hands it to a child",
    "retrieval/faiss_library.py": "OPENBLAS_CORETYPE, which is OpenBLAS's",
    "storage/filesystem/s3.py": "AWS_ENDPOINT_URL, which is AWS's",
    "storage/stores/hub.py": "HF_ENDPOINT, which is Hugging Face's",
    "storage/stores/open_store.py": "STORAGE_EMULATOR_HOST, which is Google's",
    "storage/format/id_index.py": "SQLITE_TMPDIR and TMPDIR, which are SQLite's",
    "tasks/metrics/server.py": "PROMETHEUS_MULTIPROC_DIR, which is prometheus-client's",
    "tasks/worker/fatal_error.py": "names a file for a child",
    "tasks/worker/main.py": "CUDA_VISIBLE_DEVICES, for the log; PYTHONSAFEPATH, for a child",
    "workers/engines/cuda/jpeg_decoder.py": "PYNVIMGCODEC_VERBOSITY, which is nvImageCodec's",
    "workers/engines/cuda/runtime.py": "CUDA_MODULE_LOADING, which is CUDA's",
    "workers/images/decoder.py": "hands it to a child, without the settings",
    "workers/environment.py": "hands it to a child, with the settings",
    "tasks/worker/presence_step.py": "CUDA_VISIBLE_DEVICES, which the fleet's page shows",
    "tasks/worker/watchdog.py": "names a file for a child",
}

_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert found
    return found


@cache
def names_in(path: Path) -> set[str]:
    """Return the names that a module uses: plain, imported, or of an attribute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name)
    return names


def calls_in(path: Path, name: str) -> bool:
    """Return whether a module calls a function of this name, through any path."""
    called = (n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
    return any(name in (getattr(f, "id", ""), getattr(f, "attr", "")) for f in called)


def users(names: set[str]) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in modules() if names & names_in(path)}


def test_only_the_command_line_and_the_lazy_app_load_settings() -> None:
    assert users({"load_settings"}) == MAKES_SETTINGS


def test_only_named_modules_touch_the_environment() -> None:
    assert users(_ENVIRONMENT) == READS_THE_ENVIRONMENT.keys()


def test_settings_are_made_in_one_place() -> None:
    """`Settings()` reads the environment, too."""
    makers = {str(path.relative_to(ROOT)) for path in modules() if calls_in(path, "Settings")}
    assert makers == {"clipfleet/settings/__init__.py"}


def test_a_store_has_the_settings_timeout_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPFLEET_STORE_TIMEOUT_S", raising=False)
    assert Settings().store_timeout_s == STORE_TIMEOUT_S

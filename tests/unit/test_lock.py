"""requirements*.lock: an image installs nothing that its lock does not name by a hash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # in the library from Python 3.11

ROOT = Path(__file__).parents[2]
STAGES = {
    "cpu": "requirements.lock",
    "convert": "requirements-convert.lock",
    "flower": "requirements-flower.lock",
    "gpu": "requirements-gpu.lock",
}
ON_CPU = [(s, v) for s in ("cpu", "flower") for v in ("3.10.12", "3.11.9", "3.13.0")]
EACH = pytest.mark.parametrize(
    ("stage", "python"), [*ON_CPU, ("convert", "3.11.9"), ("gpu", "3.10.12")]
)


TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def torch_version() -> str:
    return versions((ROOT / "constraints.txt").read_text(), "3.11.9")["torch"].removeprefix("==")


def lock(stage: str) -> str:
    return (ROOT / STAGES[stage]).read_text()


def environment(python: str) -> dict[str, str]:
    version = python.rpartition(".")[0]
    return {
        "python_version": version,
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
    }


def requirements(text: str) -> Iterator[Requirement]:
    """Yield the requirements of a file, without their hashes."""
    for line in re.sub(r"\s*\\\n", " ", text).splitlines():
        requirement = re.sub(r"\s--hash=\S+", "", line).partition("#")[0].strip()
        if requirement:
            yield Requirement(requirement)


def versions(text: str, python: str) -> dict[str, str]:
    """Return the versions that a file pins for a Python on Linux."""
    return {
        canonicalize_name(r.name): str(r.specifier)
        for r in requirements(text)
        if r.marker is None or r.marker.evaluate(environment(python))
    }


@EACH
def test_a_lock_has_the_versions_that_ci_tests(stage: str, python: str) -> None:
    tested = versions((ROOT / "constraints.txt").read_text(), python)
    locked = versions(lock(stage), python)
    assert len(locked) > 30
    differing = {name for name in locked.keys() & tested if locked[name] != tested[name]}
    assert differing == set(), "run `make lock`"


@EACH
def test_a_lock_has_what_its_image_needs(stage: str, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = extras["gpu" if stage == "gpu" else "cpu"]
    converts = [r for r in extras["convert"] if stage == "convert" and not r.startswith("torch")]
    declared = (*project["dependencies"], *runtime, *extras["s3"], *converts)
    needed = [Requirement(r) for r in declared]
    locked = versions(lock(stage), python)
    for requirement in needed:
        pinned = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(pinned), f"{requirement}: run `make lock`"
    assert "torch" not in locked
    assert ("flower" in locked) == (stage == "flower")


def test_the_image_for_gpus_has_the_cudnn_that_its_tensorrt_is_linked_to() -> None:
    locked = versions(lock("gpu"), "3.10.12")
    assert locked["tensorrt"] == "==8.6.0"
    assert locked["nvidia-cudnn-cu12"].startswith("==8.9.")


@pytest.mark.parametrize("stage", STAGES)
def test_every_line_of_a_lock_is_pinned_by_version_and_hash(stage: str) -> None:
    text = re.sub(r"\s*\\\n", " ", lock(stage))
    lines = [line for line in text.splitlines() if line[:1].isalpha()]
    assert len(lines) > 30
    for line in lines:
        assert re.match(r"[a-z0-9-]+==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+$", line), line


@pytest.mark.parametrize("name", STAGES)
def test_an_image_installs_from_its_lock_only(name: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    [stage] = [stage for stage in stages if f" AS {name}\n" in stage]
    installs = re.findall(r"pip install (.*?)(?: \\)?\n", stage)
    assert re.fullmatch(
        rf"--no-cache-dir --require-hashes -r (/opt/clipfleet/)?{re.escape(STAGES[name])}",
        installs[0],
    )
    rest = {
        "cpu": ["--no-cache-dir --no-deps --no-build-isolation ."],
        "gpu": ["--no-cache-dir --no-deps --no-build-isolation ."],
        "convert": [f"--no-cache-dir --no-deps --index-url {TORCH_INDEX} torch=={torch_version()}"],
        "flower": [],  # its base and that of `convert` is the first
    }
    assert installs[1:] == rest[name]


def test_ci_compares_the_locks_with_the_index() -> None:
    assert "make check-lock" in (ROOT / ".ci" / "run").read_text()

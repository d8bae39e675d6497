"""requirements.lock: the worker's image installs nothing that it does not name by a hash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # in the library from Python 3.11

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
_PYTHONS = ("3.10.12", "3.11.9", "3.13.0")


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
        told = re.sub(r"\s--hash=\S+", "", line).partition("#")[0].strip()
        if told:
            yield Requirement(told)


def versions(text: str, python: str) -> dict[str, str]:
    """Return the versions that a file pins for a Python on Linux."""
    return {
        canonicalize_name(r.name): str(r.specifier)
        for r in requirements(text)
        if r.marker is None or r.marker.evaluate(environment(python))
    }


@pytest.mark.parametrize("python", _PYTHONS)
def test_the_lock_has_the_versions_that_ci_tests(python: str) -> None:
    tested = versions((ROOT / "constraints.txt").read_text(), python)
    locked = versions(LOCK, python)
    assert len(locked) > 30
    differing = {name for name in locked.keys() & tested if locked[name] != tested[name]}
    assert differing == set(), "run `make lock`"


@pytest.mark.parametrize("python", _PYTHONS)
def test_the_lock_has_what_a_worker_needs(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(r) for r in (*project["dependencies"], *extras["cpu"], *extras["s3"])]
    locked = versions(LOCK, python)
    for requirement in needed:
        pinned = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(pinned), f"{requirement}: run `make lock`"
    assert "torch" not in locked


def test_every_line_of_the_lock_is_pinned_by_version_and_hash() -> None:
    lines = [line for line in re.sub(r"\s*\\\n", " ", LOCK).splitlines() if line[:1].isalpha()]
    assert len(lines) > 30
    for line in lines:
        assert re.match(r"[a-z0-9-]+==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+$", line), line


def test_the_image_and_ci_use_the_lock() -> None:
    stage = (ROOT / "Dockerfile").read_text().partition("AS cpu")[2].partition("\nFROM ")[0]
    assert "pip install --no-cache-dir --require-hashes -r requirements.lock" in stage
    others = re.findall(r"pip install (.*?) \\", stage)
    assert others[1:] == ["--no-cache-dir --no-deps --no-build-isolation ."]
    assert "make check-lock" in (ROOT / ".ci" / "run").read_text()

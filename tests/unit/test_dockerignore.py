""".dockerignore: the files that `COPY . .` takes into every image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # in the library from Python 3.11

ROOT = Path(__file__).parents[2]
WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the expression of a pattern, which Docker compares with whole paths from the root."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(WILDCARDS.get(piece, re.escape(piece)) for piece in pieces))


def copied(path: str) -> bool:
    """Return whether a path is in the build context.

    Docker takes the last line that matches the path or one of its parent folders (`Matches` of
    https://github.com/moby/patternmatcher); a file of a folder that is left out may come back.
    """
    parts = path.split("/")
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    left_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        regex = pattern_regex(pattern.lstrip("!").strip("/"))
        if any(regex.fullmatch(prefix) for prefix in prefixes):
            left_out = not pattern.startswith("!")
    return not left_out


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.production",
        "clipfleet/.env",
        ".git/config",
        ".venv/bin/python",
        "clipfleet.toml",
        "models/vit-b-16.img.fp32.onnx",
        "vectors/photos/parts/00001-000000.parquet",
        "demo-output/model.onnx",
        "clip_cn_vit-b-16.pt",
        "notes/README.md",
        "clipfleet/__pycache__/cli.cpython-311.pyc",
        "tests/conftest.py",
    ],
)
def test_secrets_models_and_vectors_are_in_no_image(path: str) -> None:
    assert not copied(path)


def test_an_image_gets_every_file_that_it_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = ["pyproject.toml", project["readme"], *project["license-files"]]
    files += re.findall(r"requirements[a-z-]*\.lock", (ROOT / "Dockerfile").read_text())
    for package in ("clipfleet", "storage", "workers", "tasks", "convert"):
        sources = [p for p in (ROOT / package).rglob("*") if p.is_file()]
        assert sources, package
        files += [p.relative_to(ROOT).as_posix() for p in sources if "__pycache__" not in p.parts]
    assert [path for path in files if not copied(path)] == []

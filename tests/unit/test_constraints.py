"""constraints.txt: how the script writes it, and its pins for CPython 3.10."""

from __future__ import annotations

import runpy
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / ".ci" / "constraints.py"))


def test_versions_that_differ_get_a_marker_each() -> None:
    newer = SCRIPT["pins"]("Pydantic_core==2.5\nnumpy==2.4.6\ntorch==2.13.0+cpu\na @ file:///a\n")
    older = SCRIPT["pins"]("pydantic_core==2.5\nnumpy==2.2.6\ntomli==2.5\n")
    assert SCRIPT["merged"](newer, older).splitlines()[2:] == [
        'numpy==2.4.6; python_version >= "3.11"',
        'numpy==2.2.6; python_version < "3.11"',
        "pydantic-core==2.5",
        "tomli==2.5",
        "torch==2.13.0",
    ]


def test_the_file_is_what_the_script_writes() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [Requirement(line) for line in text.splitlines() if line[0] != "#"]
    both = [
        {r.name: str(r.specifier)[2:] for r in lines if not r.marker or r.marker.evaluate(env)}
        for env in ({"python_version": "3.11"}, {"python_version": "3.10"})
    ]
    assert SCRIPT["merged"](*both) == text


def test_the_gpu_image_finds_what_has_wheels_for_cpython_3_10() -> None:
    # cuda-bindings 13.4.4 is the last with one.
    text = (ROOT / "constraints.txt").read_text()
    assert 'cuda-bindings==13.4.4; python_version < "3.11"\n' in text

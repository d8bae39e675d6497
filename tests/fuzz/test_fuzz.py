"""Inputs that once ended a target, for ever; and every target for a moment, guided by branches."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from clipfleet.errors import ClipfleetError
from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import Escape, Watch

FOUND = Path(__file__).parent / "found"
INPUTS = sorted(path for path in FOUND.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_ended_a_target_ends_as_an_error_of_ours(path: Path, place: Path) -> None:
    target = TARGETS[path.parent.name](place)
    with (
        Watch(place).watching(reads_anything=target.reads_anything),
        suppress(ClipfleetError),
    ):  # any other error, and it is found again
        target.run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_what_a_fuzzer_begins_with(name: str, place: Path) -> None:
    target = TARGETS[name](place)
    watch = Watch(place)
    assert target.seeds
    with watch.watching(reads_anything=target.reads_anything):
        target.run(target.seeds[0])  # the first is right


def test_the_watch_sees_what_is_touched_elsewhere(place: Path) -> None:
    watch = Watch(place / "inside")
    with pytest.raises(Escape, match="elsewhere"), watch.watching():
        (place / "elsewhere").write_text("a")
    with watch.watching():
        (place / "inside").mkdir()


def test_the_watch_lets_nobody_write_where_modules_are_read(place: Path) -> None:
    watch = Watch(place)
    module = Path(__file__)
    (place / "link").symlink_to(module)
    with watch.watching():
        module.read_bytes()
    for path in (module, place / "link"):
        with pytest.raises(Escape, match="test_fuzz"), watch.watching():
            path.open("ab").close()


def test_targets_are_fuzzed_guided_by_branches(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="no wheel of atheris for this Python")
    names = ["signed", "url"]
    command = [sys.executable, "-m", "tests.fuzz", "--runs", "50", "--inputs", str(tmp_path)]
    run = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    rows = re.findall(r"^(\w+) +([\d,]+) +([\d,]+) +[\d.]+  0$", run.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == names
    # Guided: instrumentation reports branches of our code to the fuzzer.
    assert all(int(edges.replace(",", "")) > 0 for _, _, edges in rows)

"""`clipfleet bench` on the demo's model: all stages of pictures and of texts, and wrong use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipfleet.cli.output import DONE, ITEMS_FAILED, WRONG_USE
from clipfleet.workers.engines.fake import write_fake_engine
from tests.integration.support import forget_settings, run_command

pytestmark = pytest.mark.integration

MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model"
SHORT = ("--seconds", "0.1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, texts, and a place for datasets."""
    forget_settings(monkeypatch)
    monkeypatch.setenv("CLIPFLEET_DECODERS", "1")  # each one is a process to start
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.new("RGB", (60 + number, 40), "teal").save(tmp_path / "photos" / f"{number}.jpg")
    (tmp_path / "texts.txt").write_text("一只猫\na red circle\n")
    (tmp_path / "vectors").mkdir()
    return tmp_path


def bench(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command("bench", *map(str, arguments), *SHORT, cwd=home)


def rates(told: dict[str, Any]) -> dict[str, float]:
    return {stage["name"]: stage["items_s"] for stage in told["stages"]}


def test_pictures_are_measured_in_each_stage_and_a_broken_one_is_counted(home: Path) -> None:
    (home / "photos" / "broken.jpg").write_bytes(b"no picture")
    card = MODEL / "demo.img.fp32.onnx"
    run = bench(home, "photos", "--model", card, "--out", "vectors", "--json")
    assert run.returncode == ITEMS_FAILED, run.stderr
    told = json.loads(run.stdout)
    found = rates(told)
    assert list(found) == [
        *("list", "read_cold", "read_warm", "decode", "decode_resize"),
        *("engine", "embedder", "write", "whole"),
    ]
    assert min(found.values()) > 0
    assert told["sample_items"] == 7
    assert told["classes"] == {"unsupported_format": 1}
    assert told["bottleneck"] in found
    assert told["share"] == pytest.approx(found["whole"] / found[told["bottleneck"]])
    assert told["advice"]
    assert list((home / "vectors").iterdir()) == []


def test_texts_are_measured_and_shown_in_a_table(home: Path) -> None:
    run = bench(home, "texts.txt", "--model", MODEL / "demo.txt.fp32.onnx")
    assert run.returncode == DONE, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["stage", "items/s", "MB/s", "items", "limited", "by"]
    stages = [line.split("  ")[0] for line in lines[1 : lines.index("")]]
    assert stages == [
        *("list the source", "tokenise", "engine", "embed in one process", "write", "whole way")
    ]
    assert lines[len(stages) + 2].startswith("bottleneck: ")
    assert "measuring tokenising" in run.stderr


def test_what_cannot_be_measured_is_said_in_one_line(home: Path) -> None:
    (home / "empty").mkdir()
    (home / "bad").mkdir()
    (home / "bad" / "a.jpg").write_bytes(b"no picture")
    pictures, words = write_fake_engine(home, "img"), write_fake_engine(home, "txt")
    for source, model, reason in (
        ("empty", pictures, "holds no image"),
        ("photos", words, "the txt tower reads texts"),
        ("texts.txt", pictures, "no item can be embedded; the first, '一只猫': "),
        ("bad", pictures, "no item can be embedded; the first, 'a.jpg': "),
    ):
        run = bench(home, source, "--model", model)
        assert run.returncode == WRONG_USE
        last = run.stderr.splitlines()[-1]
        assert last.startswith("clipfleet: ")
        assert reason in last

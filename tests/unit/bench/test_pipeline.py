"""The pipeline's measurement: photos, rates from parts, failed steps, and the table."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.gpu.pipeline.__main__ import failure_of
from bench.gpu.pipeline.figures import (
    Figure,
    WrittenPart,
    dump_figures,
    read_figures,
    steady_rate,
    table,
    written_parts,
)
from bench.gpu.pipeline.photos import given, photo, size_of
from clipfleet.storage.commit.commit import commit
from clipfleet.storage.format.dataset import Dataset
from clipfleet.storage.plan.planner import plan_items
from clipfleet.storage.sources.base import ListSource
from tests.datasets import embedded, make_card, texts


def part(vectors: int, worker: str, written_s: float) -> WrittenPart:
    return WrittenPart(vectors=vectors, worker=worker, written_s=written_s)


def test_a_rate_begins_with_the_first_part_and_does_not_count_it() -> None:
    parts = [part(1000, "a", 7.0), part(100, "a", 5.0), part(300, "a", 9.0)]
    assert steady_rate(parts) == 1300 / 4


def test_a_rate_of_several_workers_begins_when_each_has_written_a_part() -> None:
    parts = [part(64, "a", 1.0), part(64, "b", 3.0), part(64, "a", 2.0), part(50, "b", 5.0)]
    assert steady_rate(parts) == 50 / 2


@pytest.mark.parametrize("parts", [[], [part(64, "a", 1.0)]])
def test_no_later_part_gives_no_rate(parts: list[WrittenPart]) -> None:
    assert steady_rate(parts) is None


def test_a_part_is_known_with_its_vectors_its_worker_and_its_time(tmp_path: Path) -> None:
    dataset = Dataset.create(str(tmp_path), make_card(), kind="planned", embedding_dtype="float16")
    plan_items(dataset, ListSource(texts(*"abc")), 2)
    for number, ids in enumerate(("ab", "c")):
        name, rows = f"00001-{number:07d}", embedded(texts(*ids))
        done = commit(dataset, name, rows, card=make_card(), worker=f"w{number}")
        os.utime(tmp_path / done.part, (0, 10 + number))
    found = sorted(written_parts(tmp_path), key=lambda one: one.written_s)
    assert found == [part(2, "w0", 10), part(1, "w1", 11)]


def test_a_table_has_a_line_for_each_figure_and_the_reason_for_a_missing_one() -> None:
    figures = [
        Figure(
            measured="embed", engine="b32.trt", images_s=7019.4, whole_images_s=2105, details="one"
        ),
        Figure(measured="PyTorch", missing="no torch"),
    ]
    lines = table(figures).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2:] == [
        "| embed | b32.trt | 7,019 | 2,105 | one |",
        "| PyTorch | – | – | – | not measured: no torch |",
    ]


def test_a_step_hands_its_figures_over_in_a_file(tmp_path: Path) -> None:
    figures = [Figure(measured="decoders alone", images_s=10094.5, details="16 decoders")]
    path = tmp_path / "step.json"
    path.write_text(dump_figures(figures))
    assert read_figures(path) == figures


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            subprocess.CalledProcessError(2, "embed", stderr="a line\nno model\n"),
            "exit code 2: no model",
        ),
        (subprocess.TimeoutExpired("embed", 1), "not done after 600 s"),
        (FileNotFoundError("no python3.12"), "no python3.12"),
    ],
)
def test_a_failed_step_has_a_reason(error: Exception, reason: str) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    assert failure_of(["embed"], run) == reason


@pytest.mark.parametrize("size", [(50, 37), (801, 41)])
def test_a_photo_has_its_size_and_is_the_same_each_time(size: tuple[int, int]) -> None:
    pictures = [
        Image.radial_gradient("L").convert("RGB"),
        Image.linear_gradient("L").convert("RGB"),
    ]
    first = photo(3, size, pictures)
    assert first.size == size
    assert first.tobytes() == photo(3, size, pictures).tobytes()
    assert first.tobytes() != photo(4, size, pictures).tobytes()


def test_pictures_are_the_images_of_a_folder(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").touch()
    [picture] = given(tmp_path)
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit, match="no JPEG or PNG file in"):
        given(empty)


def test_a_size_is_a_width_and_a_height() -> None:
    assert size_of("1920x1080") == (1920, 1080)

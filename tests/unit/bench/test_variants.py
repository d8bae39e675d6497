"""Several measurements in one table."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu.measurement import Measurement, write_measurement
from bench.gpu.variants import WRITER, main, table
from bench.pages import Section
from tests.unit.bench.support import TENSORRT, TORCH, latency


def folder(path: Path, *parts: Measurement) -> str:
    path.mkdir()
    for number, part in enumerate(parts):
        write_measurement(part, path / f"{number}.tensorrt.json")
    return f"{path.name}={path}"


def test_each_folder_gives_a_line_and_empty_columns_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faster = replace(TENSORRT.cells["tensorrt"], latency=latency(0.25))
    now = replace(TENSORRT, cells={"tensorrt": faster})
    elsewhere = replace(TENSORRT, architecture="ViT-L-14")
    folders = [
        folder(tmp_path / "before", TENSORRT, elsewhere),
        folder(tmp_path / "now", now),
    ]
    assert main(["graphs", *folders]) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "PyTorch eager" not in head
    assert lines == [
        "| ViT-B-16 | img | before | 0.500 ms, 2,000/s | 3,000/s (K=4) | 8,800/s (K=2) |",
        "| ViT-B-16 | img | now | 0.250 ms, 4,000/s | – | – |",
    ]


def test_ratios_are_those_of_each_session(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- both: begin; written by bench.gpu.variants -->\n<!-- both: end -->\n",
        encoding="utf-8",
    )
    slower = replace(TENSORRT.cells["tensorrt"], latency=latency(1.0))
    slow = replace(TENSORRT, cells={**TENSORRT.cells, "tensorrt": slower})
    folders = [folder(tmp_path / "a", TORCH, TENSORRT), folder(tmp_path / "b", TORCH, slow)]
    assert main(["both", *folders, "--into", str(page)]) == 0
    lines = page.read_text(encoding="utf-8").splitlines()
    ends = {name: line[-8:] for line in lines for name in "ab" if f"| {name} |" in line}
    assert ends == {"a": " 8.00× |", "b": " 4.00× |"}


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder(tmp_path / "one", TENSORRT)
    other = folder(tmp_path / "other", replace(TENSORRT, tower="txt"))
    assert main(["x", one, other]) == 2
    assert "no row is in all of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["x", str(tmp_path)])
    assert "is not NAME=PATH" in capsys.readouterr().err


def test_the_tables_of_the_documentation_are_of_the_kept_files() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    results = root / "bench/gpu/results"
    sessions = table({"first": results / "first", "second": results})
    assert Section("sessions", WRITER).insert(page, sessions) == page
    graphs = {
        f"{graph}, {when}": results / "transpositions" / f"{graph}-{number}"
        for graph in ("three", "two", "one")
        for number, when in enumerate(("first", "again"), start=1)
    }
    assert Section("transpositions", WRITER).insert(page, table(graphs)) == page
